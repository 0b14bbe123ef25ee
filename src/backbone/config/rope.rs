//! The rotary position embedding's fields: `rope_theta` and `rope_scaling`, or `rope_parameters`.

use crate::error::{Error, Result};
use crate::files::Fields;
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
                original_max_position_embeddings: match fields.get("original_max_position_embeddings")? {
                    Some(positions) => positions,
                    None => object.get("original_max_position_embeddings")?.unwrap_or(max_positions),
                },
            },
            Some(other) => {
                let why = format!("is `{other}`; this version computes default, linear and llama3");
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
        let factor_is_fine = |factor: f64| factor >= 1.0 && factor.is_finite();
        match self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } | RopeScaling::Llama3 { factor, .. }
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
            RopeScaling::Llama3 { original_max_position_embeddings: 0, .. } => {
                error("original_max_position_embeddings", 0.0, "positive")
            }
            RopeScaling::Llama3 { .. } => Ok(()),
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
            let fits = divisors.iter().enumerate().all(|(i, divisor)| {
                let inv_freq = theta.powf(-(i as f64) / divisors.len() as f64);
                (scaling.divisor(inv_freq) / f64::from(*divisor) - 1.0).abs() < 1e-4
            });
            (factor > 1.0 && fits).then_some(scaling)
        })
    }

    /// What the unscaled frequency `inv_freq` is divided by.
    pub(crate) fn divisor(&self, inv_freq: f64) -> f64 {
        match *self {
            Self::None => 1.0,
            Self::Linear { factor } => factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
                let waves = original_max_position_embeddings as f64 * inv_freq / std::f64::consts::TAU;
                if waves < low_freq_factor {
                    factor
                } else if waves > high_freq_factor {
                    1.0
                } else {
                    let smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            }
        }
    }
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
            (r#"{"rope_scaling": {"type": "yarn", "factor": 4}}"#, "rope_scaling.type"),
            (r#"{"rope_scaling": {"rope_type": "dynamic", "factor": 4}}"#, "rope_scaling.rope_type"),
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
        let frequencies = (0..32).map(|i| 500_000_f64.powf(-f64::from(i) / 32.0));
        let mut divisors: Vec<f32> = frequencies.map(|f| LLAMA3.divisor(f) as f32).collect();
        assert_eq!((divisors[0], divisors[31]), (1.0, 32.0));
        assert_eq!(RopeScaling::from_divisors(&divisors, 500_000.0), Some(LLAMA3));
        divisors[10] = 3.0;
        assert_eq!(RopeScaling::from_divisors(&divisors, 500_000.0), None);
        assert_eq!(RopeScaling::from_divisors(&[1.0; 8], 1e4), Some(RopeScaling::None));
        assert_eq!(RopeScaling::from_divisors(&[0.5; 8], 1e4), None);
    }
}
