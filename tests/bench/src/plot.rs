//! A plot of lines as SVG: axes from zero, a mark per measurement where there are few, and where it is asked for the straight line that
//! each should be.
//!
//! Rejected: a plotting library, for some lines. Invariant: it needs no script and no font of its own.

use std::fmt::Write as _;

/// Size of the drawing, in pixels.
const SIZE: (f64, f64) = (720.0, 400.0);
/// Left, top, right and bottom of what is plotted, in pixels.
const AREA: (f64, f64, f64, f64) = (70.0, 50.0, 690.0, 340.0);
const COLOURS: [&str; 4] = ["#1f6feb", "#bf5f00", "#2f8f4e", "#8250b5"];
/// Marks along each axis.
const STEPS: usize = 5;
/// Lines with more points have no marks.
const MARKS_MAX: usize = 20;

/// A line by its points, from small to large.
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws the lines over one pair of axes.
pub(crate) fn plot(title: &str, x_title: &str, lines: &[Line]) -> String {
    draw(title, x_title, lines, false)
}

/// The same; dashes continue the first point with x of 1 in proportion.
pub(crate) fn plot_in_proportion(title: &str, x_title: &str, lines: &[Line]) -> String {
    draw(title, x_title, lines, true)
}

fn draw(title: &str, x_title: &str, lines: &[Line], has_dashes: bool) -> String {
    let most = |of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.points).map(of).fold(0.0, f64::max).max(f64::MIN_POSITIVE)
    };
    let (x_max, y_max) = (most(|point| point.0), round_up(most(|point| point.1)));
    let x = |value: f64| AREA.0 + value / x_max * (AREA.2 - AREA.0);
    let y = |value: f64| AREA.3 - value / y_max * (AREA.3 - AREA.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{0}\" height=\"{1}\" fill=\"white\"/>\n<text x=\"{2}\" y=\"24\" font-size=\"15\">{title}</text>\n\
         <text x=\"{2}\" y=\"{3}\">{x_title}</text>\n",
        SIZE.0,
        SIZE.1,
        AREA.0,
        SIZE.1 - 16.0
    );
    for step in 0..=STEPS {
        let part = step as f64 / STEPS as f64;
        let (at_x, at_y) = (x(x_max * part), y(y_max * part));
        let _ = write!(
            svg,
            "<path d=\"M{0:.1} {at_y:.1}H{1:.1}\" stroke=\"#ddd\"/>\n<text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{4:.7$}</text>\n\
             <text x=\"{at_x:.1}\" y=\"{5:.1}\" text-anchor=\"middle\">{6:.8$}</text>\n",
            AREA.0,
            AREA.2,
            AREA.0 - 8.0,
            at_y + 4.0,
            y_max * part,
            AREA.3 + 18.0,
            x_max * part,
            decimals(y_max),
            decimals(x_max)
        );
    }
    for (at, line) in lines.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let path: Vec<String> =
            line.points.iter().map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1))).collect();
        let _ = writeln!(
            svg,
            "<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            path.join("L")
        );
        let marked = if line.points.len() <= MARKS_MAX { line.points.as_slice() } else { &[] };
        for point in marked {
            let _ = writeln!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>",
                x(point.0),
                y(point.1)
            );
        }
        let first = line.points.iter().find(|point| point.0 == 1.0);
        if let Some(one) = first.filter(|_| has_dashes) {
            let end = (one.1 * x_max).min(y_max);
            let _ = writeln!(
                svg,
                "<path d=\"M{:.1} {:.1}L{:.1} {:.1}\" fill=\"none\" stroke=\"{colour}\" stroke-dasharray=\"4 4\"/>",
                x(0.0),
                y(0.0),
                x(end / one.1),
                y(end)
            );
        }
        let label = AREA.1 + 18.0 * at as f64;
        let says = if has_dashes { " (dashes: in proportion to size 1)" } else { "" };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{label:.1}\" fill=\"{colour}\">{}{says}</text>",
            AREA.0 + 14.0,
            line.name
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Digits behind the point at the marks of an axis that ends there.
fn decimals(max: f64) -> usize {
    usize::from(max / (STEPS as f64) < 2.0)
}

/// The next number that looks good at the end of an axis.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|step| step * power).find(|end| *end >= value).unwrap_or(value)
}
