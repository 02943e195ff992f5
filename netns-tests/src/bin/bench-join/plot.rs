//! The plot: a bar for each size of the group, made of the medians of the parts, like figure 8 of the paper.

use std::fmt::Write as _;

use crate::report::Summary;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 44.0;
const PARTS: [(&str, &str); 4] =
    [("discovery", "#4878a8"), ("key agreement", "#d9863d"), ("SA installation", "#5f9e5f"), ("activation", "#8d7bb5")];

/// Draws the summaries.
pub(crate) fn svg(summaries: &[Summary]) -> String {
    let stacks: Vec<[f64; 4]> = summaries
        .iter()
        .map(|s| [s.discovery, s.agreement, s.installation, s.activation].map(|part| part.median))
        .collect();
    let tops = stacks.iter().map(|parts| parts.iter().sum::<f64>()).chain(summaries.iter().map(|s| s.activated.p95));
    let (step, most) = scale(tops.fold(1.0, f64::max));
    let y = |millis: f64| HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * millis / most;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    let mut add = |line: String| writeln!(text, "{line}").expect("a string takes everything");
    add(label(LEFT, 18.0, "start", "First hello to a key that every router sends under (ms, median; line: 95 %)"));
    for (index, (name, colour)) in PARTS.iter().enumerate() {
        let x = LEFT + 140.0 * index as f64;
        add(format!("<rect x=\"{x}\" y=\"28\" width=\"11\" height=\"11\" fill=\"{colour}\"/>"));
        add(label(x + 16.0, 38.0, "start", name));
    }
    let mut tick = 0.0;
    while tick <= most {
        let at = y(tick);
        add(format!("<path d=\"M{LEFT} {at:.1}H{}\" stroke=\"#ddd\"/>", WIDTH - RIGHT));
        add(label(LEFT - 6.0, at + 4.0, "end", &format!("{tick}")));
        tick += step;
    }
    let slot = (WIDTH - LEFT - RIGHT) / summaries.len().max(1) as f64;
    for (index, (summary, parts)) in summaries.iter().zip(&stacks).enumerate() {
        let middle = LEFT + slot * (index as f64 + 0.5);
        let mut below = 0.0;
        for (millis, (_, colour)) in parts.iter().zip(PARTS) {
            let (x, top, height) = (middle - slot / 4.0, y(below + millis), y(below) - y(below + millis));
            add(format!(
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
                slot / 2.0
            ));
            below += millis;
        }
        let (median, p95) = (y(summary.activated.median), y(summary.activated.p95));
        add(format!("<path d=\"M{middle:.1} {median:.1}V{p95:.1}m-5 0h10\" stroke=\"black\" fill=\"none\"/>"));
        add(label(middle, p95 - 5.0, "middle", &format!("{:.1}", summary.activated.median)));
        add(label(middle, HEIGHT - BOTTOM + 16.0, "middle", &summary.routers.to_string()));
    }
    add(label((WIDTH + LEFT) / 2.0, HEIGHT - 10.0, "middle", "routers"));
    text.push_str("</svg>\n");
    text
}

fn label(x: f64, y: f64, anchor: &str, text: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
}

/// The distance of the lines, and a round number of them above `most`.
fn scale(most: f64) -> (f64, f64) {
    let ten = 10_f64.powf(most.log10().floor());
    let step = [0.2, 0.5, 1.0, 2.0].map(|part| part * ten).into_iter().find(|step| most / step <= 6.0).unwrap_or(ten);
    (step, (most / step).ceil() * step)
}

#[cfg(test)]
mod tests {
    use super::scale;

    #[test]
    fn the_scale_is_round_and_high_enough() {
        assert_eq!(scale(55.0), (10.0, 60.0));
        assert_eq!(scale(9.0), (2.0, 10.0));
        assert_eq!(scale(130.0), (50.0, 150.0));
    }
}
