//! Every built-in function, by tables: what it is called with, and what it gives.
//!
//! Not tested here: what PostgreSQL makes of the SQL; `tests/tests/functions.rs` holds both answers side by side.

use crate::harness::{Answer, App, sources};

/// Type, expression and JSON of each case. `TextToDate("…")` and the like are how a case writes its arguments.
const CASES: &[(&str, &str, &str)] = &[
    ("Decimal", "Abs(-1.5)", "1.5"),
    ("Decimal", "Mod(7, 3)", "1"),
    ("Decimal", "Mod(-7.5, 2)", "-1.5"),
    ("Decimal", "Mod(7, 0)", "0"),
    ("Decimal", "Power(2, 10)", "1024"),
    ("Decimal", "Power(2, -2)", "0.25"),
    ("Decimal", "Power(1.1, 2)", "1.21"),
    ("Decimal", "Power(0.5, -20)", "1048576"),
    ("Decimal", "Power(-10.89, -5)", "-0.00000653"),
    ("Decimal", "Power(-2, 3)", "-8"),
    ("Decimal", "Power(0, 0)", "1"),
    ("Decimal", "Power(0, -1)", "0"),
    ("Decimal", "Power(-4, 0.5)", "0"),
    ("Decimal", "Power(10, 100)", "0"),
    ("Decimal", "Power(-1, 1000001)", "-1"),
    ("Decimal", "Power(2, 0.5)", "1.41421356"),
    ("Decimal", "Power(1000, 1.5)", "31622.77660168"),
    ("Decimal", "Power(0.5, 2.5)", "0.1767767"),
    ("Decimal", "Round(2.5)", "2"),
    ("Decimal", "Round(3.5)", "4"),
    ("Decimal", "Round(-2.345, 2)", "-2.34"),
    ("Decimal", "Round(2.5, 20)", "2.5"),
    ("Decimal", "Sqrt(2)", "1.41421356"),
    ("Decimal", "Sqrt(16)", "4"),
    ("Decimal", "Sqrt(0.00000001)", "0.0001"),
    ("Decimal", "Sqrt(79228162514264337593543950336)", "281474976710656"),
    ("Decimal", "Sqrt(-1)", "0"),
    ("Decimal", "Sqrt(0)", "0"),
    ("Decimal", "Trunc(-1.9)", "-1"),
    ("Decimal", "Max(1, 1.5)", "1.5"),
    ("Decimal", "Min(-1, 1)", "-1"),
    ("Integer", "Sign(-0.1)", "-1"),
    ("Integer", "Sign(0)", "0"),
    ("Text", "Chr(65) + Chr(8364)", "\"A€\""),
    ("Text", "Chr(-1) + Chr(55296) + Chr(0) + Chr(99999999)", "\"\""),
    (
        "Text",
        r#"EncodeHtml("<a href='x'>" + Chr(34) + "&" + NewLine())"#,
        r#""&lt;a href=&#39;x&#39;&gt;&quot;&amp;<br/>""#,
    ),
    ("Text", r#"EncodeJavaScript("it's</script>" + NewLine())"#, r#""it\\x27s\\x3c/script\\x3e\\n""#),
    ("Text", r#"EncodeSql("O'Hara")"#, "\"O''Hara\""),
    ("Text", r#"EncodeUrl("a b&c=ä~")"#, "\"a+b%26c%3d%c3%a4~\""),
    ("Integer", r#"Index("ämä", "ä")"#, "0"),
    ("Integer", r#"Index("ämä", "ä", 1)"#, "2"),
    ("Integer", r#"Index("ababab", "ab", 0, True)"#, "4"),
    ("Integer", r#"Index("ababab", "ab", 4, True)"#, "2"),
    ("Integer", r#"Index("abc", "")"#, "-1"),
    ("Integer", r#"Index("", "")"#, "-1"),
    ("Integer", r#"Index("ÄB", "äb", 0, True, True)"#, "0"),
    ("Integer", r#"Index("abc", "B")"#, "-1"),
    ("Integer", r#"Index("abc", "B", 0, False, True)"#, "1"),
    ("Integer", r#"Index("abc", "a", 7)"#, "-1"),
    ("Integer", r#"Index("abc", "c", -7)"#, "2"),
    ("Integer", r#"Length("äöü€")"#, "4"),
    ("Text", "NewLine()", "\"\\n\""),
    ("Text", r#"Replace("aXbX", "X", "--")"#, "\"a--b--\""),
    ("Text", r#"Replace("abc", "", "-")"#, "\"\""),
    ("Text", r#"Substr("äbcd", 1, 2)"#, "\"bc\""),
    ("Text", r#"Substr("abc", 2, 9) + Substr("abc", -1, 2) + Substr("abc", 9, 1)"#, "\"c\""),
    ("Text", r#"ToLower("ÄB") + ToUpper("äb")"#, "\"äbÄB\""),
    ("Text", r#""[" + Trim("  a b  ") + "]""#, "\"[a b]\""),
    ("Text", r#""[" + TrimStart("  a ") + TrimEnd(" b  ") + "]""#, "\"[a  b]\""),
    ("Integer", r#"Length(Trim(Chr(9) + " " + Chr(160)))"#, "3"), // only U+0020 is trimmed
    ("Date Time", "AddDays(#2024-02-28#, 2)", "\"2024-03-01T00:00:00Z\""),
    ("Date Time", "AddDays(#3000-12-31#, 1)", "\"1900-01-01T00:00:00Z\""),
    ("Date Time", "AddHours(#2024-01-01#, -1)", "\"2023-12-31T23:00:00Z\""),
    ("Date Time", "AddMinutes(#2024-01-01 10:59:30#, 1)", "\"2024-01-01T11:00:30Z\""),
    ("Date Time", "AddSeconds(#2024-01-01#, 86400)", "\"2024-01-02T00:00:00Z\""),
    ("Date Time", "AddMonths(#2024-01-31 08:00:00#, 1)", "\"2024-02-29T08:00:00Z\""),
    ("Date Time", "AddMonths(#2024-03-31#, -13)", "\"2023-02-28T00:00:00Z\""),
    ("Date Time", "AddMonths(#2024-01-01#, 2000000000)", "\"1900-01-01T00:00:00Z\""),
    ("Date Time", "AddYears(#2024-02-29#, 1)", "\"2025-02-28T00:00:00Z\""),
    ("Date Time", "BuildDateTime(#2024-02-29#, #10:20:30#)", "\"2024-02-29T10:20:30Z\""),
    ("Date Time", "CurrDateTime()", "\"2026-11-22T10:20:30Z\""),
    ("Time", "CurrTime()", "\"10:20:30\""),
    ("Date", "CurrDate()", "\"2026-11-22\""),
    ("Integer", "Year(#2024-02-29#) + Month(#2024-02-29#) + Day(#2024-02-29#)", "2055"),
    ("Integer", "DayOfWeek(#2026-11-22#)", "0"),
    ("Integer", "DayOfWeek(#1900-01-01#)", "1"),
    ("Integer", "Hour(#10:20:30#) * 10000 + Minute(#10:20:30#) * 100 + Second(#10:20:30#)", "102030"),
    ("Integer", "DiffDays(#2024-01-01 23:59:00#, #2024-01-02 00:01:00#)", "1"),
    ("Integer", "DiffHours(#2024-01-01 12:00:00#, #2024-01-01 09:01:00#)", "-2"),
    ("Integer", "DiffMinutes(#2024-01-01#, #2024-01-01 01:00:59#)", "60"),
    ("Integer", "DiffSeconds(#2024-01-01#, #2024-01-02#)", "86400"),
    ("Integer", "DiffSeconds(#1900-01-01#, #3000-12-31#)", "0"),
    ("Date", "NewDate(2023, 2, 29)", "\"1900-01-01\""),
    ("Date Time", "NewDateTime(2024, 2, 29, 23, 59, 59)", "\"2024-02-29T23:59:59Z\""),
    ("Date Time", "NewDateTime(2024, 2, 29, 24, 0, 0)", "\"1900-01-01T00:00:00Z\""),
    ("Time", "NewTime(23, 59, 59)", "\"23:59:59\""),
    ("Time", "NewTime(0, 60, 0)", "\"00:00:00\""),
    ("Text", "BooleanToInteger(True) + BooleanToText(False)", "\"1False\""),
    (
        "Text",
        "DateTimeToText(#2024-01-01 10:20:30#) + DateToText(#2024-01-01#) + TimeToText(DateTimeToTime(#2024-01-01 10:20:30#))",
        "\"2024-01-01 10:20:302024-01-0110:20:30\"",
    ),
    ("Date Time", "DateToDateTime(DateTimeToDate(#2024-01-01 10:20:30#))", "\"2024-01-01T00:00:00Z\""),
    ("Boolean", "DecimalToBoolean(0.1) and not DecimalToBoolean(0)", "true"),
    ("Integer", "DecimalToInteger(2.5)", "2"),
    ("Integer", "DecimalToInteger(3.5)", "4"),
    ("Integer", "DecimalToInteger(2147483648)", "0"),
    ("Boolean", "DecimalToIntegerValidate(2147483647.4)", "true"),
    ("Boolean", "DecimalToIntegerValidate(2147483647.5)", "false"),
    ("Long Integer", "DecimalToLongInteger(-9223372036854775808)", "-9223372036854775808"),
    ("Long Integer", "DecimalToLongInteger(9223372036854775808)", "0"),
    ("Boolean", "DecimalToLongIntegerValidate(9223372036854775808)", "false"),
    ("Text", "DecimalToText(1.50) + DecimalToText(-0.00000001)", "\"1.5-0.00000001\""),
    ("Boolean", "IntegerToBoolean(2) and not IntegerToBoolean(0)", "true"),
    ("Decimal", "IntegerToDecimal(7) / 2", "3.5"),
    ("Text", "IntegerToText(-7) + LongIntegerToText(9223372036854775807)", "\"-79223372036854775807\""),
    (
        "Integer",
        "IdentifierToInteger(IntegerToIdentifier(7)) + IdentifierToInteger(LongIntegerToIdentifier(2147483648))",
        "7",
    ),
    (
        "Text",
        "IdentifierToText(TextToIdentifier(\"12\")) + IdentifierToLongInteger(NullIdentifier())",
        "\"120\"",
    ),
    ("Integer", "LongIntegerToInteger(2147483648)", "0"),
    ("Boolean", "LongIntegerToIntegerValidate(2147483648)", "false"),
    ("Boolean", "NullDate() = #1900-01-01#", "true"),
    ("Binary Data", "NullBinary()", "\"\""),
    ("Date", "TextToDate(\"2024.02.29\")", "\"2024-02-29\""),
    ("Date", "TextToDate(\"2023-02-29\")", "\"1900-01-01\""),
    ("Boolean", "TextToDateValidate(\"2024/02/29\") and not TextToDateValidate(\"29.2.2024\")", "true"),
    ("Date Time", "TextToDateTime(\"2024-02-29T10:00:00+02:00\")", "\"2024-02-29T08:00:00Z\""),
    // An offset that leads out of the range of the type.
    ("Date Time", "TextToDateTime(\"1900-01-01T00:00:00+02:00\")", "\"1900-01-01T00:00:00Z\""),
    ("Boolean", "TextToDateTimeValidate(\"3000-12-31 23:59:59-00:30\")", "false"),
    ("Date Time", "TextToDateTime(\"soon\")", "\"1900-01-01T00:00:00Z\""),
    (
        "Boolean",
        "TextToDateTimeValidate(\"2024-02-29 10:00:00\") and not TextToDateTimeValidate(\"\")",
        "true",
    ),
    ("Time", "TextToTime(\"10:20\")", "\"10:20:00\""),
    ("Boolean", "TextToTimeValidate(\"10:20:30\") and not TextToTimeValidate(\"24:00\")", "true"),
    ("Decimal", "TextToDecimal(\" -1.5 \") + TextToDecimal(\"one\")", "-1.5"),
    ("Boolean", "TextToDecimalValidate(\"1e3\") and not TextToDecimalValidate(\"1,5\")", "true"),
    ("Integer", "TextToInteger(\"7\") + TextToInteger(\"7.5\") + TextToInteger(\"2147483648\")", "7"),
    ("Boolean", "TextToIntegerValidate(\"-7\") and not TextToIntegerValidate(\"\")", "true"),
    ("Long Integer", "TextToLongInteger(\"9223372036854775807\")", "9223372036854775807"),
    (
        "Boolean",
        "TextToLongIntegerValidate(\"9223372036854775807\") and not TextToLongIntegerValidate(\"x\")",
        "true",
    ),
    ("Text", r#"FormatCurrency(-1234567.885, "$", 2, ".", ",")"#, "\"$-1,234,567.89\""),
    ("Text", r#"FormatCurrency(0.5, "€ ", 0, ",", ".")"#, "\"€ 1\""),
    ("Text", r#"FormatDecimal(1234.5, 2, ",", ".")"#, "\"1.234,50\""),
    (
        "Text",
        r#"FormatDecimal(-0.004, 2, ".", "") + FormatDecimal(999, 0, ".", ",") + FormatDecimal(1.5, 99, ".", "")"#,
        "\"0.009991.50000000\"",
    ),
    (
        "Text",
        r#"FormatPercent(-79228162514264337593543950336, 0, ".")"#,
        "\"-7922816251426433759354395033600%\"",
    ),
    ("Text", r#"FormatPercent(0.12345, 2, ".") + FormatPercent(0.125, 0, ".")"#, "\"12.35%13%\""),
    ("Text", r#"FormatPhoneNumber("43662123456", 2, 3, 6, "+", " ", "/")"#, "\"+43 662/123456\""),
    (
        "Text",
        r#"FormatPhoneNumber("4366212345678", 2, 0, 6, "+", " ", "/") + FormatPhoneNumber("43", 3, 2, 3, "+", " ", "-")"#,
        "\"+43/662123+43\"",
    ),
    ("Text", r#"FormatText("7", 3, 5, True, "0") + FormatText("ab", 4, 4, False, ".")"#, "\"007ab..\""),
    (
        "Text",
        r#"FormatText("abcdef", 0, 3, True, "") + FormatText("abcdef", 0, 3, False, " ")"#,
        "\"defabc\"",
    ),
    (
        "Text",
        r#"FormatDateTime(#2026-11-03 15:04:05#, "d dd ddd dddd|M MM MMM MMMM|y yy yyyy|h hh H HH|m mm|s ss|t tt")"#,
        "\"3 03 Tue Tuesday|11 11 Nov November|26 26 2026|3 03 15 15|4 04|5 05|P PM\"",
    ),
    ("Text", r#"FormatDateTime(#2026-11-03 00:30:00#, "hh:mm tt \d\a\y d")"#, "\"12:30 AM day 3\""),
    (
        "Text",
        r#"EmailAddressCreate("Ann Lee", "a@b.c") + EmailAddressCreate("Lee, Ann", "a@b.c") + EmailAddressCreate("", "a@b.c")"#,
        r#""\"Ann Lee\" <a@b.c>\"Lee, Ann\" <a@b.c>a@b.c""#,
    ),
    (
        "Boolean",
        r#"EmailAddressValidate("") and EmailAddressValidate("a.b+c@d-e.org") and EmailAddressValidate("a@b")"#,
        "true",
    ),
    (
        "Boolean",
        r#"EmailAddressValidate("a@") or EmailAddressValidate("@b") or EmailAddressValidate("a@-b.c") or EmailAddressValidate("a@b..c") or EmailAddressValidate("a b@c.d") or EmailAddressValidate("a@b@c")"#,
        "false",
    ),
    ("Text", "GetAppName() + GetOwnerURLPath() + GetCurrentLocale()", "\"B/Ben-US\""),
    ("Text", "GetBookmarkableURL() + GetUserAgent()", "\"http://app/B/rest/A/Run?x=1test\""),
    ("Text", "GetUserId()", "\"\""),
    ("Boolean", r#"IdentifierToText(NullTextIdentifier()) = """#, "true"),
    ("Boolean", r#"CheckEndUserRole("Lead")"#, "false"),
    ("Text", r#"If(True, "then", ToUpper("else"))"#, "\"then\""),
];

#[test]
fn functions_give_what_the_reference_says() {
    let mut model = String::from("app: B\nstructures:\n  Out:\n    attributes:\n");
    for (at, (ty, ..)) in CASES.iter().enumerate() {
        model.push_str(&format!("      C{at}: {ty}\n"));
    }
    model.push_str("rest:\n  A:\n    methods:\n      Run:\n        outputs: { Out: Out }\n        flow:\n");
    for (at, (_, expr, _)) in CASES.iter().enumerate() {
        model.push_str(&format!("          - assign: {{ Out.C{at}: '{}' }}\n", expr.replace('\'', "''")));
    }
    let app = App::start(&sources(&model));
    let reply = app.send_with("GET", "/B/rest/A/Run?x=1", &[("user-agent", "test")], "");
    assert_eq!(reply.status, 200, "{}", reply.body);
    let out: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    let wrong: Vec<String> = CASES
        .iter()
        .enumerate()
        .filter(|(at, (_, _, expected))| {
            let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
            out[format!("C{at}")] != expected
        })
        .map(|(at, (_, expr, expected))| format!("{expr} gave {}, not {expected}", out[format!("C{at}")]))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The functions of the reference whose line says one of `rows` about attributes.
fn names(rows: &[&str]) -> Vec<&'static str> {
    let page = include_str!("../../../../docs/oml/functions.md");
    let lines = page.lines().filter(|line| rows.iter().any(|word| line.contains(&format!("| {word} |"))));
    lines.filter_map(|line| Some(line.strip_prefix("| `")?.split_once('(')?.0)).collect()
}

#[test]
fn every_function_of_the_reference_has_a_case() {
    let names = names(&["yes", "short", ""]);
    assert!(names.len() > 90, "{} functions", names.len());
    for name in names {
        let call = format!("{name}(");
        assert!(CASES.iter().any(|(_, expr, _)| expr.contains(&call)), "no case calls {name}");
    }
}

/// A filter over `P`, and the part of its SQL that says what the function becomes.
const FILTERS: &[(&str, &str)] = &[
    ("If(P.B, P.I, P.J) = 1", r#"(CASE WHEN "P"."B" THEN "P"."I" ELSE "P"."J" END)"#),
    ("Abs(P.D) = 1", r#"abs("P"."D")"#),
    ("Mod(P.D, P.I) = 1", r#"COALESCE(mod("P"."D", NULLIF(("P"."I")::numeric, 0)), 0)"#),
    ("Sqrt(P.D) = 1", r#"round(sqrt(greatest(round("P"."D", 40), 0)), 8)"#),
    ("Trunc(P.D) = 1", r#"trunc("P"."D")"#),
    ("Max(P.D, 1) = 1", r#"greatest("P"."D", $1::numeric)"#),
    ("Min(P.D, P.D) = 1", r#"least("P"."D", "P"."D")"#),
    ("Sign(P.D) = 1", r#"sign("P"."D")::int4"#),
    (
        r#"Index(P.T, "a") >= 0"#,
        r#"(COALESCE(strpos("P"."T" COLLATE "C", NULLIF($1::text COLLATE "C", '')), 0) - 1)"#,
    ),
    ("Length(P.T) = 1", r#"length("P"."T")"#),
    (
        r#"Replace(P.T, "a", P.S) = P.S"#,
        r#"(COALESCE(replace("P"."T" COLLATE "C", NULLIF($1::text COLLATE "C", ''), "P"."S" COLLATE "C"), '') COLLATE "odeon_text")"#,
    ),
    (
        r#"Substr(P.T, P.I, 2) = "a""#,
        r#"COALESCE(substr("P"."T", NULLIF(greatest(least("P"."I", 2147483646), -1), -1) + 1, greatest($1::int4, 0)), '')"#,
    ),
    (r#"ToLower(P.T) = "a""#, r#"lower("P"."T")"#),
    (r#"ToUpper(P.T) = "a""#, r#"upper("P"."T")"#),
    (r#"Trim(P.T) = "a""#, r#"btrim("P"."T")"#),
    (r#"TrimStart(P.T) = "a""#, r#"ltrim("P"."T")"#),
    (r#"TrimEnd(P.T) = "a""#, r#"rtrim("P"."T")"#),
    (
        "AddDays(P.M, P.I) = P.M",
        r#"COALESCE(NULLIF(least(greatest("P"."M" + least(greatest("P"."I", -999999), 999999) * interval '1 day', timestamp '1900-01-01'), timestamp '3001-01-01'), timestamp '3001-01-01'), timestamp '1900-01-01')"#,
    ),
    ("AddHours(P.M, 1) = P.M", "least(greatest($1::int4, -19999999), 19999999) * interval '1 hour'"),
    ("AddMinutes(P.M, 1) = P.M", "least(greatest($1::int4, -999999999), 999999999) * interval '1 minute'"),
    ("AddMonths(P.M, 1) = P.M", "least(greatest($1::int4, -19999), 19999) * interval '1 month'"),
    ("AddSeconds(P.M, 1) = P.M", "$1::int4 * interval '1 second'"),
    ("AddYears(P.M, 1) = P.M", "least(greatest($1::int4, -1999), 1999) * interval '1 year'"),
    ("BuildDateTime(DateTimeToDate(P.M), DateTimeToTime(P.M)) = P.M", r#"("P"."M"::date + "P"."M"::time)"#),
    ("Year(P.M) = 1", r#"extract(year from "P"."M")::int4"#),
    ("Month(P.M) = 1", r#"extract(month from "P"."M")::int4"#),
    ("Day(P.M) = 1", r#"extract(day from "P"."M")::int4"#),
    ("DayOfWeek(P.M) = 1", r#"extract(dow from "P"."M")::int4"#),
    ("Hour(P.M) = 1", r#"extract(hour from "P"."M")::int4"#),
    ("Minute(P.M) = 1", r#"extract(minute from "P"."M")::int4"#),
    ("Second(P.M) = 1", r#"floor(extract(second from "P"."M"))::int4"#),
    ("DiffDays(P.M, P.N) = 1", r#"("P"."N"::date - "P"."M"::date)"#),
    ("DiffHours(P.M, P.N) = 1", r#"trunc(extract(epoch from ("P"."N" - "P"."M")) / 3600)::int4"#),
    ("DiffMinutes(P.M, P.N) = 1", r#"trunc(extract(epoch from ("P"."N" - "P"."M")) / 60)::int4"#),
    (
        "DiffSeconds(P.M, P.N) = 1",
        r#"least(greatest(trunc(extract(epoch from ("P"."N" - "P"."M"))), -2147483649), 2147483648)"#,
    ),
    ("BooleanToInteger(P.B) = 1", r#"("P"."B")::int4"#),
    (r#"BooleanToText(P.B) = "a""#, r#"(CASE WHEN "P"."B" THEN 'True' ELSE 'False' END)"#),
    ("DateToDateTime(DateTimeToDate(P.M)) = P.M", r#""P"."M"::date::timestamp"#),
    (r#"DateToText(P.A) = "a""#, r#"to_char("P"."A"::timestamp, 'YYYY-MM-DD')"#),
    ("DecimalToBoolean(P.D)", r#"("P"."D" <> 0)"#),
    ("IdentifierToLongInteger(P.R) = 1", r#"COALESCE("P"."R", 0)"#),
    (
        "IdentifierToInteger(P.R) = 1",
        r#"COALESCE(NULLIF(NULLIF(least(greatest("P"."R", -2147483649), 2147483648), -2147483649), 2147483648), 0)::int4"#,
    ),
    (r#"IdentifierToText(P.R) = "a""#, r#"COALESCE("P"."R", 0)::text"#),
    ("IntegerToBoolean(P.I)", r#"("P"."I" <> 0)"#),
    ("IntegerToDecimal(P.I) = 1", r#""P"."I"::numeric"#),
    ("IntegerToIdentifier(P.I) = P.R", r#"NULLIF("P"."I"::int8, 0)"#),
    (r#"IntegerToText(P.I) = "a""#, r#""P"."I"::text"#),
    ("LongIntegerToIdentifier(P.L) = P.R", r#"COALESCE(NULLIF("P"."L", 0), 0)"#),
    (
        "LongIntegerToInteger(P.L) = 1",
        r#"COALESCE(NULLIF(NULLIF(least(greatest("P"."L", -2147483649), 2147483648), -2147483649), 2147483648), 0)::int4"#,
    ),
    ("LongIntegerToIntegerValidate(P.L)", r#"("P"."L" BETWEEN -2147483648 AND 2147483647)"#),
    (r#"LongIntegerToText(P.L) = "a""#, r#""P"."L"::text"#),
];

const P: &str = "app: F\nentities:\n  P: { attributes: { T: Text, S: Text, I: Integer, J: Integer, L: Long Integer, D: Decimal, A: Date, M: Date Time, N: Date Time, B: Boolean, R: P Identifier } }\n";

#[test]
fn functions_of_attributes_become_sql() {
    let mut model = format!("{P}rest:\n  A:\n    methods:\n      Run:\n        flow:\n");
    for (at, (filter, _)) in FILTERS.iter().enumerate() {
        model.push_str(&format!("          - {{ list: P, name: L{at}, where: '{filter}' }}\n"));
    }
    let app = App::start(&sources(&model));
    app.answers(FILTERS.iter().map(|_| Answer::Table(1, vec![])));
    let reply = app.get("/F/rest/A/Run");
    assert!((200..300).contains(&reply.status), "{}", reply.body);
    for ((filter, expected), seen) in FILTERS.iter().zip(app.seen()) {
        assert!(seen.contains(expected), "{filter} became\n{seen}\nwithout\n{expected}");
    }
    for name in names(&["yes", "short"]) {
        let call = format!("{name}(");
        assert!(FILTERS.iter().any(|(filter, _)| filter.contains(&call)), "no filter calls {name}");
    }
}

#[test]
fn like_folds_both_sides_in_the_database() {
    let model = format!(
        "{P}rest:\n  A:\n    methods:\n      Run:\n        inputs: {{ S: Text }}\n        flow:\n          - {{ list: P, where: 'not (P.T like S + \"%\") or S like P.S' }}\n"
    );
    let app = App::start(&sources(&model));
    app.answers([Answer::Table(1, vec![])]);
    app.get("/F/rest/A/Run?S=a");
    let seen = app.seen().remove(0);
    // The tables are those of the app's own comparison.
    let mut short = String::new();
    for (at, part) in seen.split('\'').enumerate() {
        short.push_str(if at % 2 == 1 && part.chars().count() > 2 { "…" } else { part });
    }
    let folded = |text: &str| {
        format!(
            r#"replace(replace(replace(replace(translate(lower({text} COLLATE "und-x-icu"), …, …), ß, ss), æ, ae), ǽ, ae), œ, oe)"#
        )
    };
    let (value, pattern) = (folded(r#""P"."T""#), folded("$1::text"));
    let (other, row) = (folded("$2::text"), folded(r#""P"."S""#));
    assert!(
        short.contains(&format!(
            "((NOT ({value} LIKE (SELECT {pattern}) ESCAPE )) OR ({other} LIKE {row} ESCAPE ))"
        )),
        "{short}"
    );
    assert!(seen.ends_with(r#"[text("a%"), text("a")]"#), "{seen}");
}

#[test]
fn what_the_database_does_not_know_is_refused() {
    let refused = |filter: &str| {
        let text = format!("{P}actions: {{ F: {{ flow: [ {{ list: P, where: '{filter}', max: 1 }} ] }} }}\n");
        let checked = odeon_compiler::check(&sources(&text));
        checked.problems.iter().any(|problem| problem.code == "OML0501")
    };
    assert!(!refused(r#"Index(P.T, "a", 0, False, False) = 1"#)); // as if left out
    assert!(refused(r#"Index(P.T, "a", 1) = 1"#));
    assert!(refused(r#"Index(P.T, "a", P.I) = 1"#));
    assert!(refused(r#"Index(P.T, "a", 0, False, P.B) = 1"#));
    assert!(refused("Round(P.D) = 1"));
    assert!(!refused("Round(2.5) = P.D")); // the row is not needed
}

#[test]
fn a_wrong_call_says_how_it_is_called() {
    let text = "app: T\nactions: { F: { flow: [ { log: 'Index(\"a\")' }, { log: 'If(True)' } ] } }\n";
    let checked = odeon_compiler::check(&sources(text));
    let hints: Vec<&str> = checked.problems.iter().filter_map(|problem| problem.hint.as_deref()).collect();
    assert_eq!(
        hints,
        [
            "Index(Text, Text[, Integer][, Boolean][, Boolean]): where the second is in the first, from 0, or -1 (an empty one is nowhere); the place to begin at, from the end (where a place other than 0 ends the text), without case",
            "If(Condition, Then, Else)"
        ]
    );
}
