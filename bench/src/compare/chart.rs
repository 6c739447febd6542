//! Bars as SVG, by a few lines of our own: a drawing library would weigh more than what it draws.
//!
//! Must stay readable where scripts and style sheets are off, on light and dark ground: the ground is drawn, too.

use std::fmt::Write;

const WIDTH: usize = 860;
const LABEL_WIDTH: usize = 300;
const BAR_WIDTH: f64 = 440.0;
const ROW: usize = 22;
const HEAD: usize = 44;
const OURS: &str = "#1f6f8b";
const THEIRS: &str = "#b9b2a3";

/// A bar.
pub struct Bar {
    pub label: String,
    pub value: f64,
    /// What is written beside it.
    pub text: String,
    pub is_ours: bool,
}

/// Bars from the top down, the longest as wide as there is room.
pub fn bars(title: &str, bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let height = HEAD + ROW * bars.len() + 10;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"12\" y=\"26\" font-size=\"16\" fill=\"#222222\">{}</text>\n",
        escaped(title)
    );
    for (index, bar) in bars.iter().enumerate() {
        let y = HEAD + ROW * index;
        // Two pixels at least: a bar that is there must be seen.
        let width = if most > 0.0 { (bar.value / most * BAR_WIDTH).max(2.0) } else { 2.0 };
        let (colour, text_y, text_x) =
            (if bar.is_ours { OURS } else { THEIRS }, y + 14, LABEL_WIDTH as f64 + width + 6.0);
        let written = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text_y}\" text-anchor=\"end\" fill=\"#222222\">{}</text>\
             <rect x=\"{LABEL_WIDTH}\" y=\"{y}\" width=\"{width:.1}\" height=\"{}\" fill=\"{colour}\"/>\
             <text x=\"{text_x:.1}\" y=\"{text_y}\" fill=\"#222222\">{}</text>",
            LABEL_WIDTH - 8,
            escaped(&bar.label),
            ROW - 5,
            escaped(&bar.text)
        );
        written.expect("a string takes everything");
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_room_and_text_is_escaped() {
        let bar = |value: f64, label: &str| Bar {
            label: label.into(),
            value,
            text: format!("{value}"),
            is_ours: value < 2.0,
        };
        let svg = bars("a < b & c", &[bar(4.0, "x"), bar(1.0, "y"), bar(0.0, "z")]);
        assert!(svg.contains("a &lt; b &amp; c") && svg.contains("width=\"440.0\""));
        assert!(svg.contains("width=\"110.0\"") && svg.contains("width=\"2.0\""));
        assert_eq!((svg.matches(OURS).count(), svg.matches(THEIRS).count()), (2, 1));
        assert_eq!(svg.matches('<').count(), svg.matches('>').count());
    }
}
