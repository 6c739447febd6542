//! Least, middle and most of a few repeats, and quantiles of many samples.

use std::fmt;

/// Of a few runs. Shown as `middle (least..most)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub least: f64,
    pub middle: f64,
    pub most: f64,
}

impl Spread {
    /// Of at least one figure.
    pub fn of(figures: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1).expect("a spread has at least one figure");
        let middle = (sorted[last / 2] + sorted[sorted.len() / 2]) / 2.0;
        Spread { least: sorted[0], middle, most: sorted[last] }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = f.precision().unwrap_or(2);
        write!(f, "{:.places$}", self.middle)?;
        if self.least < self.most {
            write!(f, " ({:.places$}..{:.places$})", self.least, self.most)?;
        }
        Ok(())
    }
}

/// The smallest sample that so many of a thousand do not exceed. The samples are sorted, and some.
pub fn quantile(sorted: &[u64], per_mille: usize) -> u64 {
    let at = (sorted.len() * per_mille).div_ceil(1_000).saturating_sub(1);
    sorted[at.min(sorted.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter());
        assert_eq!((spread.least, spread.middle, spread.most), (1.0, 2.5, 4.0));
        assert_eq!(format!("{spread:.1}"), "2.5 (1.0..4.0)");
        assert_eq!(format!("{:.1}", Spread::of([7.0].into_iter())), "7.0");
    }

    #[test]
    fn quantiles_are_samples() {
        let samples: Vec<u64> = (1..=1_000).collect();
        assert_eq!([500, 990, 999].map(|per_mille| quantile(&samples, per_mille)), [500, 990, 999]);
        assert_eq!(quantile(&[5], 999), 5);
    }
}
