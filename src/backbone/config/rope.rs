//! The rotary position embedding's fields: `rope_theta` and `rope_scaling`, or `rope_parameters`.

use crate::error::{Error, Result};
use crate::files::Fields;
use std::f64::consts::TAU;
use std::path::Path;

/// Base and scaling of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The base: `inv_freq[i] = theta^(-2i / head_dim)`.
    pub theta: f64,
    /// What is done to these frequencies.
    pub scaling: RopeScaling,
}

/// How the frequencies of [`RopeConfig`] are changed for longer texts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all (`default`).
    None,
    /// `inv_freq / factor` (`linear`).
    Linear {
        /// The factor, at least 1.
        factor: f64,
    },
    /// By wavelength (`llama3`; transformers, `_compute_llama3_parameters`): long waves' frequencies are
    /// divided by `factor`, short ones' stay, those between are interpolated.
    Llama3 {
        /// The divisor of long waves, at least 1.
        factor: f64,
        /// Waves longer than `original_max_position_embeddings / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_position_embeddings / high_freq_factor` are short.
        high_freq_factor: f64,
        /// The number of positions before the scaling.
        original_max_position_embeddings: usize,
    },
    /// By the number of turns within the original context (`yarn`; arXiv 2309.00071, transformers' `_compute_yarn_parameters`): frequencies
    /// that turn often stay, those that turn seldom are divided by `factor`, those between are interpolated.
    Yarn {
        /// The divisor of low frequencies, at least 1.
        factor: f64,
        /// The number of positions before the scaling.
        original_max_position_embeddings: usize,
        /// Turns above which a frequency stays.
        beta_fast: f64,
        /// Turns below which a frequency is divided by `factor`.
        beta_slow: f64,
        /// What cosines and sines are multiplied by, so that scores are by its square.
        attention_factor: f64,
        /// Whether the ends of the interpolation are rounded to whole pairs.
        truncate: bool,
    },
}

impl RopeConfig {
    /// Reads either spelling.
    pub(super) fn from_fields(fields: &Fields, max_position_embeddings: usize) -> Result<Self> {
        let theta = fields.get("rope_theta")?.unwrap_or(10_000.0);
        refuse_partial(fields)?;
        let read = |name: &str| match fields.object(name)? {
            Some(object) if object.names().next().is_some() => {
                Self::from_object(fields, &object, theta, max_position_embeddings).map(Some)
            }
            _ => Ok(None),
        };
        match (read("rope_scaling")?, read("rope_parameters")?) {
            (Some(old), Some(new)) if old != new => {
                Err(fields.error("rope_scaling", "contradicts the field `rope_parameters`"))
            }
            (Some(rope), _) | (None, Some(rope)) => Ok(rope),
            (None, None) => Ok(Self { theta, scaling: RopeScaling::None }),
        }
    }

    fn from_object(fields: &Fields, object: &Fields, theta: f64, max_positions: usize) -> Result<Self> {
        refuse_partial(object)?;
        let name = if object.value("rope_type").is_some() { "rope_type" } else { "type" };
        let kind: Option<String> = object.get(name)?;
        let scaling = match kind.as_deref() {
            Some("default") => RopeScaling::None,
            None if object.names().all(|name| name == "rope_theta") => RopeScaling::None,
            None => return Err(object.error("rope_type", "is missing")),
            Some("linear") => RopeScaling::Linear { factor: object.require("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: object.require("factor")?,
                low_freq_factor: object.require("low_freq_factor")?,
                high_freq_factor: object.require("high_freq_factor")?,
                original_max_position_embeddings: original_positions(fields, object, max_positions)?,
            },
            Some("yarn") => yarn(fields, object, max_positions)?,
            // Its frequencies are the unscaled ones up to `max_position_embeddings`, and no text is longer here.
            Some("dynamic") => match object.require("factor")? {
                factor if factor_is_fine(factor) => RopeScaling::None,
                factor => return Err(object.error("factor", format!("is {factor}, but must be at least 1"))),
            },
            Some(other) => {
                let why =
                    format!("is `{other}`; this version computes default, linear, dynamic, yarn and llama3");
                return Err(object.error(name, why));
            }
        };
        if object.value("mrope_section").is_some() {
            return Err(
                object.error("mrope_section", "is set; positions in several dimensions are not supported")
            );
        }
        Ok(Self { theta: object.get("rope_theta")?.unwrap_or(theta), scaling })
    }

    /// Checks that the numbers can be computed with.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let error = |name: &str, value: f64, must: &str| {
            Err(Error::file(path, format!("the field `{name}` is {value}, but must be {must}")))
        };
        if !(self.theta > 0.0 && self.theta.is_finite()) {
            return error("rope_theta", self.theta, "positive");
        }
        match self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor }
            | RopeScaling::Llama3 { factor, .. }
            | RopeScaling::Yarn { factor, .. }
                if !factor_is_fine(factor) =>
            {
                error("factor", factor, "at least 1")
            }
            RopeScaling::Linear { .. } => Ok(()),
            RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. }
                if !(low > 0.0 && high > low && high.is_finite()) =>
            {
                error(
                    "high_freq_factor",
                    high,
                    &format!("greater than `low_freq_factor` ({low}), both positive"),
                )
            }
            RopeScaling::Llama3 { original_max_position_embeddings: 0, .. }
            | RopeScaling::Yarn { original_max_position_embeddings: 0, .. } => {
                error("original_max_position_embeddings", 0.0, "positive")
            }
            RopeScaling::Yarn { beta_fast: fast, beta_slow: slow, .. }
                if !(slow > 0.0 && fast >= slow && fast.is_finite()) =>
            {
                error("beta_fast", fast, &format!("at least `beta_slow` ({slow}), both positive"))
            }
            RopeScaling::Yarn { attention_factor, .. }
                if !(attention_factor > 0.0 && attention_factor.is_finite()) =>
            {
                error("attention_factor", attention_factor, "positive")
            }
            RopeScaling::Yarn { .. } if self.theta <= 1.0 => error("rope_theta", self.theta, "above 1"),
            RopeScaling::Llama3 { .. } | RopeScaling::Yarn { .. } => Ok(()),
        }
    }
}

impl RopeScaling {
    /// The scaling whose divisors of the frequencies are `divisors` (one for each of `head_dim / 2`), as GGUF
    /// files store it; `None` when it is neither no scaling nor `llama3`.
    pub(super) fn from_divisors(divisors: &[f32], theta: f64) -> Option<Self> {
        if divisors.iter().all(|divisor| *divisor == 1.0) {
            return Some(Self::None);
        }
        // Only the ratios of the three lengths matter, so the lower factor may be taken as 1; every published
        // model has 4 as the higher one.
        let factor = f64::from(*divisors.last()?);
        (6..=20).map(|power| 1 << power).find_map(|original_max_position_embeddings| {
            let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
            let scaling =
                Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings };
            let pairs = divisors.len();
            let inv_freq: Vec<f64> = (0..pairs).map(|i| theta.powf(-(i as f64) / pairs as f64)).collect();
            let expected = scaling.divisors(theta, &inv_freq);
            let fits = expected.iter().zip(divisors).all(|(a, b)| (a / f64::from(*b) - 1.0).abs() < 1e-4);
            (factor > 1.0 && fits).then_some(scaling)
        })
    }

    /// What each of the unscaled frequencies `inv_freq`, `theta^(-i / pairs)`, is divided by.
    pub(crate) fn divisors(&self, theta: f64, inv_freq: &[f64]) -> Vec<f64> {
        match *self {
            Self::None => vec![1.0; inv_freq.len()],
            Self::Linear { factor } => vec![factor; inv_freq.len()],
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let divisor = |inv_freq: &f64| {
                    let waves = original_max_position_embeddings as f64 * inv_freq / TAU;
                    if waves < low_freq_factor {
                        factor
                    } else if waves > high_freq_factor {
                        1.0
                    } else {
                        let smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        1.0 / ((1.0 - smooth) / factor + smooth)
                    }
                };
                inv_freq.iter().map(divisor).collect()
            }
            Self::Yarn {
                factor, original_max_position_embeddings, beta_fast, beta_slow, truncate, ..
            } => {
                // The pair that makes so many turns within the original context.
                let pair_of = |turns: f64| {
                    let positions = original_max_position_embeddings as f64;
                    inv_freq.len() as f64 * (positions / (turns * TAU)).ln() / theta.ln()
                };
                let (low, high) = (pair_of(beta_fast), pair_of(beta_slow));
                let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
                let (low, high) = (low.max(0.0), high.min((2 * inv_freq.len() - 1) as f64));
                let width = if low == high { 0.001 } else { high - low };
                let divisor = |i: usize| {
                    let divided = ((i as f64 - low) / width).clamp(0.0, 1.0);
                    1.0 / (divided / factor + (1.0 - divided))
                };
                (0..inv_freq.len()).map(divisor).collect()
            }
        }
    }

    /// What cosines and sines are multiplied by.
    pub(crate) fn attention_factor(&self) -> f64 {
        match *self {
            Self::Yarn { attention_factor, .. } => attention_factor,
            Self::None | Self::Linear { .. } | Self::Llama3 { .. } => 1.0,
        }
    }

    /// YaRN's scaling by `factor` with the settings of its paper.
    pub(super) fn yarn(factor: f64, original_max_position_embeddings: usize) -> Self {
        Self::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: mscale(factor, 1.0),
            truncate: true,
        }
    }
}

/// The scaling `yarn` in `object`, as transformers fills its fields up.
fn yarn(fields: &Fields, object: &Fields, max_positions: usize) -> Result<RopeScaling> {
    let original_max_position_embeddings = original_positions(fields, object, max_positions)?;
    let factor = match object.get("factor")? {
        Some(factor) => factor,
        None => max_positions as f64 / original_max_position_embeddings as f64,
    };
    // Zero counts as absent for these, as in Python.
    let number = |name: &str| object.get::<f64>(name).map(|number| number.filter(|number| *number != 0.0));
    let attention_factor =
        match (object.get("attention_factor")?, number("mscale")?, number("mscale_all_dim")?) {
            (Some(attention_factor), _, _) => attention_factor,
            (None, Some(one), Some(all)) => mscale(factor, one) / mscale(factor, all),
            (None, _, _) => mscale(factor, 1.0),
        };
    Ok(RopeScaling::Yarn {
        factor,
        original_max_position_embeddings,
        beta_fast: number("beta_fast")?.unwrap_or(32.0),
        beta_slow: number("beta_slow")?.unwrap_or(1.0),
        attention_factor,
        truncate: object.get("truncate")?.unwrap_or(true),
    })
}

/// YaRN's factor of the scores' square root: `0.1 · by · ln(factor) + 1`.
fn mscale(factor: f64, by: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 }
}

/// The number of positions before a scaling.
fn original_positions(fields: &Fields, object: &Fields, max_positions: usize) -> Result<usize> {
    const NAME: &str = "original_max_position_embeddings";
    match fields.get(NAME)? {
        Some(positions) => Ok(positions),
        None => Ok(object.get(NAME)?.unwrap_or(max_positions)),
    }
}

fn factor_is_fine(factor: f64) -> bool {
    factor >= 1.0 && factor.is_finite()
}

/// Refuses to rotate only a part of each head.
fn refuse_partial(fields: &Fields) -> Result<()> {
    match fields.get::<f64>("partial_rotary_factor")? {
        Some(part) if part != 1.0 => {
            Err(fields.error("partial_rotary_factor", format!("is {part}; heads are rotated in full here")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(text: &str) -> Result<RopeConfig> {
        let fields = Fields::parse(Path::new("c.json"), text)?;
        let rope = RopeConfig::from_fields(&fields, 4096)?;
        rope.check(fields.path()).map(|()| rope)
    }

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    #[test]
    fn both_spellings_say_the_same() {
        let scaling = r#""factor": 32, "low_freq_factor": 1, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192"#;
        let old = format!(r#"{{"rope_theta": 5e5, "rope_scaling": {{"rope_type": "llama3", {scaling}}}}}"#);
        let new =
            format!(r#"{{"rope_parameters": {{"rope_theta": 500000, "rope_type": "llama3", {scaling}}}}}"#);
        let expected = RopeConfig { theta: 500_000.0, scaling: LLAMA3 };
        assert_eq!(rope(&old).unwrap(), expected);
        assert_eq!(rope(&new).unwrap(), expected);
        assert_eq!(rope(r#"{"rope_theta": 7, "rope_scaling": null}"#).unwrap().theta, 7.0);
        let linear = rope(r#"{"rope_scaling": {"type": "linear", "factor": 2}}"#).unwrap();
        assert_eq!(linear.scaling, RopeScaling::Linear { factor: 2.0 });
    }

    #[test]
    fn other_scalings_are_refused_by_field() {
        for (text, field) in [
            (r#"{"rope_scaling": {"type": "su", "factor": 4}}"#, "rope_scaling.type"),
            (r#"{"rope_scaling": {"rope_type": "dynamic", "factor": 0.5}}"#, "rope_scaling.factor"),
            (r#"{"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 0.5}}"#, "beta_fast"),
            (r#"{"rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": 0}}"#, "attention_factor"),
            (r#"{"rope_parameters": {"rope_type": "longrope"}}"#, "rope_parameters.rope_type"),
            (
                r#"{"rope_parameters": {"full_attention": {"rope_type": "default"}}}"#,
                "rope_parameters.rope_type",
            ),
            (r#"{"rope_scaling": {"factor": 4}}"#, "rope_scaling.rope_type"),
            (r#"{"rope_scaling": {"type": "linear"}}"#, "rope_scaling.factor"),
            (r#"{"rope_scaling": {"type": "linear", "factor": 0}}"#, "factor"),
            (r#"{"rope_theta": 0}"#, "rope_theta"),
            (r#"{"partial_rotary_factor": 0.5}"#, "partial_rotary_factor"),
        ] {
            let error = rope(text).unwrap_err().to_string();
            assert!(error.starts_with(&format!("c.json: the field `{field}` ")), "{text}: {error}");
        }
    }

    #[test]
    fn llama3_scaling_is_recognised_by_its_divisors() {
        let frequencies: Vec<f64> = (0..32).map(|i| 500_000_f64.powf(-f64::from(i) / 32.0)).collect();
        let mut divisors: Vec<f32> = LLAMA3.divisors(5e5, &frequencies).iter().map(|&x| x as f32).collect();
        assert_eq!((divisors[0], divisors[31]), (1.0, 32.0));
        assert_eq!(RopeScaling::from_divisors(&divisors, 500_000.0), Some(LLAMA3));
        divisors[10] = 3.0;
        assert_eq!(RopeScaling::from_divisors(&divisors, 500_000.0), None);
        assert_eq!(RopeScaling::from_divisors(&[1.0; 8], 1e4), Some(RopeScaling::None));
        assert_eq!(RopeScaling::from_divisors(&[0.5; 8], 1e4), None);
    }
}
