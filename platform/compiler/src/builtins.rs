//! The built-in functions: one line each, from which checking, lowering, SQL and docs/oml/functions.md follow.
//!
//! A function never fails: what it cannot do gives the default of its result. The arithmetic is the runtime
//! library's. Invariant: SQL is given only where PostgreSQL answers what the runtime library does.

use crate::literal;
use crate::types::{Named, TExpr, TKind, Type};

/// A built-in function.
#[derive(Debug)]
pub(crate) struct Builtin {
    pub(crate) name: &'static str,
    /// Its parameters; those behind the first [`Builtin::required`] may be left out and are 0, False or empty then.
    pub(crate) parameters: &'static [Type],
    pub(crate) required: usize,
    pub(crate) result: Type,
    /// The function of the runtime library.
    pub(crate) runtime: &'static str,
    /// SQL with $a, $b, $c for the arguments, each once, so that nested calls stay short. None where the database
    /// has no equal. It answers for calls that leave out what it does not name.
    sql: Option<&'static str>,
    /// What its name does not say.
    pub(crate) note: &'static str,
}

impl Builtin {
    /// How it is called, for people.
    pub(crate) fn signature(&self) -> String {
        let named = Named::default();
        let shown: Vec<String> = self.parameters.iter().map(|ty| named.shown(ty)).collect();
        let (given, optional) = shown.split_at(self.required);
        let optional: String = optional.iter().map(|ty| format!("[, {ty}]")).collect();
        format!("{}({}{optional})", self.name, given.join(", "))
    }

    /// The SQL of a call; none where the database has no equal.
    pub(crate) fn sql(&self, arguments: &[TExpr]) -> Option<&'static str> {
        let sql = self.sql?;
        let is_default = |of: &TExpr| matches!(&of.kind, TKind::Constant(given) if Some(given) == literal::default_of(&of.ty).as_ref());
        let mut unnamed =
            arguments.iter().zip('a'..).filter(|(_, letter)| !sql.contains(&format!("${letter}")));
        unnamed.all(|(argument, _)| is_default(argument)).then_some(sql)
    }
}

/// Functions that check types by rules of their own, with their parameters.
pub(crate) const SPECIAL: &[(&str, &str, &str)] = &[
    ("If", "Condition, Then, Else", "only the one that is chosen is computed; both have a common type"),
    ("NullIdentifier", "", "of any entity"),
    ("NullTextIdentifier", "", "of any entity whose Id is a Text"),
    ("GetAppName", "", "the name of the app"),
    ("GetOwnerURLPath", "", "`/` and the name of the app"),
    ("GetCurrentLocale", "", "always `en-US`"),
];

/// Whether the language has a function of that name.
pub(crate) fn is_built_in(name: &str) -> bool {
    BUILTINS.iter().any(|b| b.name == name) || SPECIAL.iter().any(|(special, ..)| *special == name)
}

const BOOL: Type = Type::Boolean;
const INT: Type = Type::Integer;
const LONG: Type = Type::Long;
const DEC: Type = Type::Decimal;
const TEXT: Type = Type::Text;
const DATE: Type = Type::Date;
const TIME: Type = Type::Time;
const MOMENT: Type = Type::DateTime;
const BYTES: Type = Type::Binary;
const ID: Type = Type::Identifier(None);

macro_rules! builtins {
    ($($name:literal($($p:expr),* $(; $($o:expr),+)?) -> $r:expr, $rt:literal, $sql:expr, $note:literal)*) => {
        &[$(Builtin {
            name: $name,
            parameters: &[$($p,)* $($($o,)+)?],
            required: <[&str]>::len(&[$(stringify!($p)),*]),
            result: $r,
            runtime: $rt,
            sql: $sql,
            note: $note,
        }),*]
    };
}

/// A date and time moved by an interval, and 1900-01-01 where that leaves 1900 to 3000. The callers keep the
/// interval small enough for PostgreSQL and too large for the language.
macro_rules! moved {
    ($by:literal) => {
        Some(concat!(
            "COALESCE(NULLIF(least(greatest($a + ",
            $by,
            ", timestamp '1900-01-01'), timestamp '3001-01-01'), timestamp '3001-01-01'), timestamp '1900-01-01')"
        ))
    };
}

pub(crate) const BUILTINS: &[Builtin] = builtins! {
    "Abs"(DEC) -> DEC, "rt_dec_abs", Some("abs($a)"), ""
    "Mod"(DEC, DEC) -> DEC, "rt_dec_mod", Some("COALESCE(mod($a, NULLIF($b, 0)), 0)"), "the rest has the sign of the first; 0 for a divisor of 0"
    "Power"(DEC, DEC) -> DEC, "rt_dec_power", None, "whole exponents by multiplication, each step rounded to 8 digits; others have 15 digits at most; 0 for a negative base with a fraction, for 0 with a negative exponent, and beyond the range"
    "Round"(DEC; INT) -> DEC, "rt_dec_round", None, "half to even, at so many digits"
    "Sqrt"(DEC) -> DEC, "rt_dec_sqrt", Some("round(sqrt(greatest(round($a, 40), 0)), 8)"), "0 for a negative number"
    "Trunc"(DEC) -> DEC, "rt_dec_trunc", Some("trunc($a)"), ""
    "Max"(DEC, DEC) -> DEC, "rt_dec_max", Some("greatest($a, $b)"), ""
    "Min"(DEC, DEC) -> DEC, "rt_dec_min", Some("least($a, $b)"), ""
    "Sign"(DEC) -> INT, "rt_dec_sign", Some("sign($a)::int4"), "-1, 0 or 1"

    "Chr"(INT) -> TEXT, "rt_chr", None, "the character of that code; empty for a code that is none"
    "EncodeHtml"(TEXT) -> TEXT, "rt_encode_html", None, "a line feed becomes `<br/>`, a carriage return vanishes"
    "EncodeJavaScript"(TEXT) -> TEXT, "rt_encode_javascript", None, "for inside a string of JavaScript, also one in HTML: quotes, `<`, `>` and `&` as `\\x27`, control characters as `\\n` or `\\x07`"
    "EncodeSql"(TEXT) -> TEXT, "rt_encode_sql", None, "doubles quotes; parameters of queries need no encoding"
    "EncodeUrl"(TEXT) -> TEXT, "rt_encode_url", None, "a space becomes `+`; all but letters, digits and `-_.~` is written like `%2f`"
    "Index"(TEXT, TEXT; INT, BOOL, BOOL) -> INT, "rt_text_index", Some("(COALESCE(strpos($a COLLATE \"C\", NULLIF($b COLLATE \"C\", '')), 0) - 1)"), "where the second is in the first, from 0, or -1 (an empty one is nowhere); the place to begin at, from the end (where a place other than 0 ends the text), without case"
    "Length"(TEXT) -> INT, "rt_text_len", Some("length($a)"), "in characters"
    "NewLine"() -> TEXT, "rt_new_line", None, "one line feed"
    "Replace"(TEXT, TEXT, TEXT) -> TEXT, "rt_text_replace", Some("(COALESCE(replace($a COLLATE \"C\", NULLIF($b COLLATE \"C\", ''), $c COLLATE \"C\"), '') COLLATE \"odeon_text\")"), "every occurrence; empty when nothing is searched for"
    "Substr"(TEXT, INT, INT) -> TEXT, "rt_text_substr", Some("COALESCE(substr($a, NULLIF(greatest(least($b, 2147483646), -1), -1) + 1, greatest($c, 0)), '')"), "from a start, so many characters"
    "ToLower"(TEXT) -> TEXT, "rt_text_lower", Some("lower($a)"), ""
    "ToUpper"(TEXT) -> TEXT, "rt_text_upper", Some("upper($a)"), ""
    "Trim"(TEXT) -> TEXT, "rt_text_trim", Some("btrim($a)"), "spaces (U+0020) only"
    "TrimEnd"(TEXT) -> TEXT, "rt_text_trim_end", Some("rtrim($a)"), "spaces (U+0020) only"
    "TrimStart"(TEXT) -> TEXT, "rt_text_trim_start", Some("ltrim($a)"), "spaces (U+0020) only"

    "AddDays"(MOMENT, INT) -> MOMENT, "rt_add_days", moved!("least(greatest($b, -999999), 999999) * interval '1 day'"), ""
    "AddHours"(MOMENT, INT) -> MOMENT, "rt_add_hours", moved!("least(greatest($b, -19999999), 19999999) * interval '1 hour'"), ""
    "AddMinutes"(MOMENT, INT) -> MOMENT, "rt_add_minutes", moved!("least(greatest($b, -999999999), 999999999) * interval '1 minute'"), ""
    "AddMonths"(MOMENT, INT) -> MOMENT, "rt_add_months", moved!("least(greatest($b, -19999), 19999) * interval '1 month'"), "the last day of the month where it is shorter"
    "AddSeconds"(MOMENT, INT) -> MOMENT, "rt_add_seconds", moved!("$b * interval '1 second'"), ""
    "AddYears"(MOMENT, INT) -> MOMENT, "rt_add_years", moved!("least(greatest($b, -1999), 1999) * interval '1 year'"), "28 February where there is no 29th"
    "BuildDateTime"(DATE, TIME) -> MOMENT, "rt_build_datetime", Some("($a + $b)"), ""
    "CurrDate"() -> DATE, "rt_today", None, "in UTC"
    "CurrDateTime"() -> MOMENT, "rt_now", None, "in UTC, in whole seconds"
    "CurrTime"() -> TIME, "rt_time_now", None, "in UTC, in whole seconds"
    "Day"(MOMENT) -> INT, "rt_date_day", Some("extract(day from $a)::int4"), ""
    "DayOfWeek"(MOMENT) -> INT, "rt_date_weekday", Some("extract(dow from $a)::int4"), "0 is Sunday"
    "DiffDays"(MOMENT, MOMENT) -> INT, "rt_diff_days", Some("($b::date - $a::date)"), "the time of day does not count"
    "DiffHours"(MOMENT, MOMENT) -> INT, "rt_diff_hours", Some("trunc(extract(epoch from ($b - $a)) / 3600)::int4"), "whole ones, from the first to the second"
    "DiffMinutes"(MOMENT, MOMENT) -> INT, "rt_diff_minutes", Some("trunc(extract(epoch from ($b - $a)) / 60)::int4"), "whole ones, from the first to the second"
    "DiffSeconds"(MOMENT, MOMENT) -> INT, "rt_diff_seconds", Some("COALESCE(NULLIF(NULLIF(least(greatest(trunc(extract(epoch from ($b - $a))), -2147483649), 2147483648), -2147483649), 2147483648), 0)::int4"), "whole ones, from the first to the second; 0 beyond the range of Integer"
    "Hour"(MOMENT) -> INT, "rt_time_hour", Some("extract(hour from $a)::int4"), ""
    "Minute"(MOMENT) -> INT, "rt_time_minute", Some("extract(minute from $a)::int4"), ""
    "Month"(MOMENT) -> INT, "rt_date_month", Some("extract(month from $a)::int4"), ""
    "NewDate"(INT, INT, INT) -> DATE, "rt_new_date", None, "year, month, day"
    "NewDateTime"(INT, INT, INT, INT, INT, INT) -> MOMENT, "rt_new_datetime", None, "year, month, day, hour, minute, second"
    "NewTime"(INT, INT, INT) -> TIME, "rt_new_time", None, "hour, minute, second"
    "Second"(MOMENT) -> INT, "rt_time_second", Some("floor(extract(second from $a))::int4"), ""
    "Year"(MOMENT) -> INT, "rt_date_year", Some("extract(year from $a)::int4"), ""

    "BooleanToInteger"(BOOL) -> INT, "rt_bool_to_int", Some("($a)::int4"), ""
    "BooleanToText"(BOOL) -> TEXT, "rt_bool_to_text", Some("(CASE WHEN $a THEN 'True' ELSE 'False' END)"), "`True` or `False`"
    "DateTimeToDate"(MOMENT) -> DATE, "rt_datetime_to_date", Some("$a::date"), ""
    "DateTimeToText"(MOMENT) -> TEXT, "rt_datetime_to_text", None, "yyyy-MM-dd HH:mm:ss"
    "DateTimeToTime"(MOMENT) -> TIME, "rt_datetime_to_time", Some("$a::time"), ""
    "DateToDateTime"(DATE) -> MOMENT, "rt_date_to_datetime", Some("$a::timestamp"), ""
    "DateToText"(DATE) -> TEXT, "rt_date_to_text", Some("to_char($a::timestamp, 'YYYY-MM-DD')"), "yyyy-MM-dd"
    "DecimalToBoolean"(DEC) -> BOOL, "rt_dec_to_bool", Some("($a <> 0)"), "False for 0"
    "DecimalToInteger"(DEC) -> INT, "rt_dec_to_int", None, "half to even; 0 beyond the range"
    "DecimalToIntegerValidate"(DEC) -> BOOL, "rt_dec_is_int", None, "whether it is within the range"
    "DecimalToLongInteger"(DEC) -> LONG, "rt_dec_to_long", None, "half to even; 0 beyond the range"
    "DecimalToLongIntegerValidate"(DEC) -> BOOL, "rt_dec_is_long", None, "whether it is within the range"
    "DecimalToText"(DEC) -> TEXT, "rt_dec_to_text", None, "no zeros at the end"
    "IdentifierToInteger"(ID) -> INT, "rt_long_to_int", Some("COALESCE(NULLIF(NULLIF(least(greatest($a, -2147483649), 2147483648), -2147483649), 2147483648), 0)::int4"), "0 beyond the range"
    "IdentifierToLongInteger"(ID) -> LONG, "rt_id_to_long", Some("COALESCE($a, 0)"), "0 for the null identifier"
    "IdentifierToText"(ID) -> TEXT, "rt_long_to_text", Some("COALESCE($a, 0)::text"), ""
    "IntegerToBoolean"(INT) -> BOOL, "rt_int_to_bool", Some("($a <> 0)"), "False for 0"
    "IntegerToDecimal"(INT) -> DEC, "rt_int_to_dec", Some("$a::numeric"), ""
    "IntegerToIdentifier"(INT) -> ID, "rt_int_to_id", Some("NULLIF($a::int8, 0)"), "of any entity"
    "IntegerToText"(INT) -> TEXT, "rt_int_to_text", Some("$a::text"), ""
    "LongIntegerToIdentifier"(LONG) -> ID, "rt_id_to_long", Some("NULLIF($a, 0)"), "of any entity"
    "LongIntegerToInteger"(LONG) -> INT, "rt_long_to_int", Some("COALESCE(NULLIF(NULLIF(least(greatest($a, -2147483649), 2147483648), -2147483649), 2147483648), 0)::int4"), "0 beyond the range"
    "LongIntegerToIntegerValidate"(LONG) -> BOOL, "rt_long_is_int", Some("($a BETWEEN -2147483648 AND 2147483647)"), "whether it is within the range"
    "LongIntegerToText"(LONG) -> TEXT, "rt_long_to_text", Some("$a::text"), ""
    "NullBinary"() -> BYTES, "rt_null_binary", None, "no bytes"
    "NullDate"() -> DATE, "rt_null_date", None, "1900-01-01"
    "TextToDate"(TEXT) -> DATE, "rt_text_to_date", None, "yyyy-MM-dd, yyyy/MM/dd or yyyy.MM.dd"
    "TextToDateTime"(TEXT) -> MOMENT, "rt_text_to_datetime", None, "a date, alone or with a space or T and a time behind; an offset is converted"
    "TextToDateTimeValidate"(TEXT) -> BOOL, "rt_text_is_datetime", None, ""
    "TextToDateValidate"(TEXT) -> BOOL, "rt_text_is_date", None, ""
    "TextToDecimal"(TEXT) -> DEC, "rt_text_to_dec", None, "like `-12.5`, `+7` or `1e3`; digits past the eighth are rounded, half to even"
    "TextToDecimalValidate"(TEXT) -> BOOL, "rt_text_is_dec", None, ""
    "TextToIdentifier"(TEXT) -> ID, "rt_text_to_long", None, "of any entity; the text itself where its Id is one"
    "TextToInteger"(TEXT) -> INT, "rt_text_to_int", None, "digits, with a sign or without"
    "TextToIntegerValidate"(TEXT) -> BOOL, "rt_text_is_int", None, ""
    "TextToLongInteger"(TEXT) -> LONG, "rt_text_to_long", None, "digits, with a sign or without"
    "TextToLongIntegerValidate"(TEXT) -> BOOL, "rt_text_is_long", None, ""
    "TextToTime"(TEXT) -> TIME, "rt_text_to_time", None, "HH:mm or HH:mm:ss"
    "TextToTimeValidate"(TEXT) -> BOOL, "rt_text_is_time", None, ""
    "TimeToText"(TIME) -> TEXT, "rt_time_to_text", None, "HH:mm:ss"

    "FormatCurrency"(DEC, TEXT, INT, TEXT, TEXT) -> TEXT, "rt_format_currency", None, "symbol, digits, decimal and group separator; half away from zero; the sign is behind the symbol"
    "FormatDateTime"(MOMENT, TEXT) -> TEXT, "rt_format_datetime", None, "d dd ddd dddd M MM MMM MMMM y yy yyyy h hh H HH m mm s ss t tt; a backslash takes the next character as it is"
    "FormatDecimal"(DEC, INT, TEXT, TEXT) -> TEXT, "rt_format_decimal", None, "digits, decimal and group separator; half away from zero"
    "FormatPercent"(DEC, INT, TEXT) -> TEXT, "rt_format_percent", None, "digits and decimal separator of a hundred times the number; half away from zero"
    "FormatPhoneNumber"(TEXT, INT, INT, INT, TEXT, TEXT, TEXT) -> TEXT, "rt_format_phone", None, "digits of country, area and number, and the separator in front of each; what is left is dropped"
    "FormatText"(TEXT, INT, INT, BOOL, TEXT) -> TEXT, "rt_format_text", None, "least and most characters; padded and cut at the left when True; the padding, whose first character is taken, 100,000 times at most"

    "EmailAddressCreate"(TEXT, TEXT) -> TEXT, "rt_email_create", None, "name and address as in a mail's head: `\"Ann Lee\" <ann@example.org>`; without a name the address"
    "EmailAddressValidate"(TEXT) -> BOOL, "rt_email_is", None, "the rule of HTML; an empty one is valid"
    "GetBookmarkableURL"() -> TEXT, "rt_url", None, "of the request, with scheme, host and query as it says them; empty in a timer"
    "GetUserId"() -> TEXT, "rt_user", None, "the UserId that `on_authentication` gave, or that of the app that calls; empty when there is none"
    "CheckEndUserRole"(TEXT; TEXT) -> BOOL, "rt_has_role", None, "whether a user, or the one of the request, has the role of that name; False when the database cannot be asked"
    "GetUserAgent"() -> TEXT, "rt_user_agent", None, "of the request; empty in a timer"
};

#[cfg(test)]
mod tests {
    use super::*;

    const CHECKED_IN: &str = "../../docs/oml/functions.md";
    const UPDATE: &str = "ODEON_UPDATE";

    fn page() -> String {
        let mut page = String::from(
            "# Built-in functions\n\nA function never fails: what it cannot do gives the default of its result, unless a note says otherwise.\n\
             What is read from a text may have white space around it. Parameters in brackets may be left out. \"Rows\" says whether attributes of the row can be given in a query, where the\n\
             database then gives what the app would; \"short\" means without the parameters in brackets. What does not depend on the\n\
             row can always be used there.\n\n\
             Not in the language: `ToObject` and `NullObject`, because there are no objects.\n\n| Function | Result | Rows | |\n|---|---|---|---|\n",
        );
        let named = Named::default();
        for (name, parameters, note) in SPECIAL {
            let (result, rows) = match *name {
                "If" => ("of the two", "yes"),
                "NullIdentifier" => ("Identifier", ""),
                "NullTextIdentifier" => ("Text Identifier", ""),
                _ => ("Text", ""),
            };
            page.push_str(&format!("| `{name}({parameters})` | {result} | {rows} | {note} |\n"));
        }
        for builtin in BUILTINS {
            let all_named = |sql: &str| sql.matches('$').count() == builtin.parameters.len();
            let rows = builtin.sql.map_or("", |sql| if all_named(sql) { "yes" } else { "short" });
            let (signature, result) = (builtin.signature(), named.shown(&builtin.result));
            page.push_str(&format!("| `{signature}` | {result} | {rows} | {} |\n", builtin.note));
        }
        page
    }

    #[test]
    fn the_checked_in_page_is_current() {
        let current = page();
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(CHECKED_IN, &current).expect("docs/oml can be written");
        }
        let checked_in = std::fs::read_to_string(CHECKED_IN).unwrap_or_default();
        assert!(
            checked_in == current,
            "docs/oml/functions.md is not what builtins.rs says. Write it with\n\n    {UPDATE}=1 cargo test -p odeon-compiler --lib builtins\n"
        );
    }

    #[test]
    fn every_sql_names_each_parameter_once_and_leaves_out_optional_ones_only() {
        for builtin in BUILTINS {
            let Some(sql) = builtin.sql else { continue };
            let mut named: Vec<u8> = sql.match_indices('$').map(|(at, _)| sql.as_bytes()[at + 1]).collect();
            named.sort_unstable();
            let known: Vec<u8> = (b'a'..).take(named.len()).collect();
            assert_eq!(named, known, "{}", builtin.name);
            assert!((builtin.required..=builtin.parameters.len()).contains(&named.len()), "{}", builtin.name);
        }
    }
}
