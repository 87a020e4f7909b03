//! Middle and spread of repeated measurements: median and quartiles, never a mean.
//!
//! On a shared machine a single slow turn says nothing; the quartiles show how much the middle is worth.

/// Median and quartiles.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many measurements.
    pub count: usize,
    /// A quarter of them is smaller.
    pub lower: f64,
    /// Half of them is smaller.
    pub median: f64,
    /// A quarter of them is larger.
    pub upper: f64,
}

impl Spread {
    /// Of `samples`; none where there are none.
    pub fn of(samples: &[f64]) -> Option<Spread> {
        Some(Spread {
            count: samples.len(),
            lower: quantile(samples, 25)?,
            median: quantile(samples, 50)?,
            upper: quantile(samples, 75)?,
        })
    }
}

/// The value below which `percent` of the samples lie, linear between two neighbours; none where there are none.
pub fn quantile(samples: &[f64], percent: usize) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let scaled = sorted.len().checked_sub(1)? * percent;
    let (index, part) = (scaled / 100, scaled % 100);
    let low = *sorted.get(index)?;
    let high = sorted.get(index + 1).copied().unwrap_or(low);
    Some(low + (high - low) * float(part) / 100.0)
}

/// A count as a float: exact as far as any bench counts.
pub fn float(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

/// The same for counts of bytes and nanoseconds; off by less than one in 2^52.
#[expect(clippy::cast_precision_loss, reason = "a rounding of 1e-16 is no measurement error")]
pub fn float64(number: u64) -> f64 {
    number as f64
}

/// `wrapped` divided by `plain`, turn by turn.
pub fn ratios(plain: &[f64], wrapped: &[f64]) -> Vec<f64> {
    plain.iter().zip(wrapped).map(|(plain, wrapped)| wrapped / plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let samples = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(&samples, 0), Some(1.0));
        assert_eq!(quantile(&samples, 50), Some(2.5));
        assert_eq!(quantile(&samples, 100), Some(4.0));
        assert_eq!(quantile(&[], 50), None);
        assert_eq!(Spread::of(&[7.0]).map(|s| (s.lower, s.median, s.upper)), Some((7.0, 7.0, 7.0)));
    }

    #[test]
    fn ratios_are_taken_turn_by_turn() {
        assert_eq!(ratios(&[2.0, 4.0], &[3.0, 4.0]), [1.5, 1.0]);
    }
}
