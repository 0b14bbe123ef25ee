//! Which modules an adapter changes: PEFT's rules for names and patterns.

use crate::error::{Error, Result};
use regex::{Regex, RegexBuilder};
use serde::Serialize;

/// The modules of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// Modules whose name is an entry or ends with a dot and an entry.
    List(Vec<String>),
    /// Modules whose whole path the regular expression matches; `all-linear` means every projection of every
    /// layer.
    Regex(String),
}

/// The projections of one layer, which an adapter here can change beside the head.
pub const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// The module of the output layer.
pub const LM_HEAD: &str = "lm_head";

impl TargetModules {
    /// Whether the module (`model.layers.0.self_attn.q_proj`) is one of them: PEFT's
    /// `check_target_module_exists`.
    ///
    /// # Errors
    /// When the regular expression is invalid.
    pub fn matches(&self, module: &str) -> Result<bool> {
        match self {
            Self::Regex(pattern) if is_all_linear(pattern) => Ok(is_projection(module)),
            _ => self.matches_literally(module),
        }
    }

    /// Whether the list has the module's whole name.
    pub(super) fn names(&self, module: &str) -> bool {
        matches!(self, Self::List(names) if names.iter().any(|name| name == module))
    }

    /// Whether the module is one of them where no text has a meaning of its own, as in the field `exclude_modules`.
    ///
    /// # Errors
    /// When the regular expression is invalid.
    pub(super) fn matches_literally(&self, module: &str) -> Result<bool> {
        match self {
            Self::List(names) => Ok(names.iter().any(|name| ends_with_module(module, name))),
            Self::Regex(pattern) => full_match(pattern, module),
        }
    }

    /// Checks that there is something to match with.
    ///
    /// # Errors
    /// When the list or text is empty, or the regular expression is invalid; the sentence begins with what is wrong.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::List(names) if names.is_empty() => Err(Error::invalid("is empty")),
            Self::Regex(pattern) if pattern.is_empty() => Err(Error::invalid("is empty")),
            Self::Regex(pattern) if !is_all_linear(pattern) => full_match(pattern, "").map(drop),
            _ => Ok(()),
        }
    }
}

/// Whether `path` has the module `name`, of one part or several, in it.
pub(super) fn has_module(path: &str, name: &str) -> bool {
    format!(".{path}.").contains(&format!(".{name}."))
}

/// The number of the layer that `module` lies in, where the list of layers is called by one of the regular expressions `patterns`, or anything
/// where there are none: PEFT's rule for `layers_to_transform`.
///
/// # Errors
/// When a pattern is invalid.
pub(super) fn layer_of(patterns: &[String], module: &str) -> std::result::Result<Option<usize>, String> {
    let layer = |regex: String| -> std::result::Result<Option<usize>, String> {
        let found = compile(&regex)?.captures(module).and_then(|found| found[1].parse().ok());
        Ok(found)
    };
    if patterns.is_empty() {
        return layer(r"\A.*?\.[^.]*\.(\d+)\.".into());
    }
    for pattern in patterns {
        if let Some(found) = layer(format!(r"\A(?:.*?\.)?(?:{pattern})\.(\d+)\."))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The names of the projections, as `target_modules` lists them: `q_proj` to `down_proj`.
pub fn projection_names() -> [&'static str; 7] {
    PROJECTIONS.map(|path| path.rsplit_once('.').map_or(path, |(_, name)| name))
}

/// Whether `module` can have factors: the head, or a projection of a layer.
pub(super) fn can_carry_factors(module: &str) -> bool {
    module == LM_HEAD || is_projection(module)
}

/// Whether `module` is one of the seven projections of a layer.
fn is_projection(module: &str) -> bool {
    let Some((layer, rest)) = module.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'))
    else {
        return false;
    };
    !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit()) && PROJECTIONS.contains(&rest)
}

/// Whether `module` is `name` or ends with a dot and `name`.
pub(crate) fn ends_with_module(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_all_linear(pattern: &str) -> bool {
    pattern.eq_ignore_ascii_case("all-linear")
}

/// The largest regular expression in bytes, compiled. Names of modules need none that is larger.
const LARGEST: usize = 1 << 20;

/// Python's `re.fullmatch`. What needs steps without bounds, as look-around does, may take only so many.
fn full_match(pattern: &str, module: &str) -> Result<bool> {
    let whole = format!(r"\A(?:{pattern})\z");
    let unusable = |cause: &str| {
        Error::invalid(format!("is not a list of names, nor a regular expression that can be used: {cause}"))
    };
    match compile(&whole) {
        Ok(regex) => Ok(regex.is_match(module)),
        Err(cause) => {
            let regex = fancy_regex::RegexBuilder::new(&whole).delegate_size_limit(LARGEST).build();
            let regex = regex.map_err(|_| unusable(&cause))?;
            regex.is_match(module).map_err(|error| unusable(&error.to_string()))
        }
    }
}

/// The regular expression `pattern`, or why it is none, on one line.
fn compile(pattern: &str) -> std::result::Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(LARGEST).build().map_err(|error| {
        // The parser draws the pattern with an arrow below; the last line says what it is about.
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string()
    })
}

/// PEFT's `get_pattern_key`: the pattern matches the whole path or all that follows a dot.
pub(super) fn suffix_match(key: &str) -> std::result::Result<Regex, String> {
    compile(&format!(r"\A(?:.*\.)?(?:{key})\z"))
}

/// The value of the first pattern that matches; an invalid one matches nothing.
pub(super) fn first_match<T: Copy>(patterns: &[(String, T)], module: &str) -> Option<T> {
    let matches = |key: &str| suffix_match(key).is_ok_and(|regex| regex.is_match(module));
    patterns.iter().find(|(key, _)| matches(key)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const Q: &str = "model.layers.1.self_attn.q_proj";

    fn list(names: &[&str]) -> TargetModules {
        TargetModules::List(names.iter().map(|name| name.to_string()).collect())
    }

    fn targets(modules: TargetModules, module: &str) -> bool {
        modules.matches(module).unwrap()
    }

    #[test]
    fn a_list_matches_whole_names_and_whole_endings() {
        assert!(targets(list(&["q_proj"]), Q) && targets(list(&["self_attn.q_proj"]), Q));
        assert!(targets(list(&[Q]), Q) && targets(list(&["q_proj"]), "q_proj"));
        assert!(!targets(list(&["proj"]), Q) && !targets(list(&["v_proj"]), Q));
        assert!(!targets(list(&[".*q_proj"]), Q));
    }

    #[test]
    fn a_text_matches_the_whole_path_as_a_regular_expression() {
        let regex = |pattern: &str| targets(TargetModules::Regex(pattern.into()), Q);
        assert!(regex(r".*\.(q|v)_proj") && regex(r"model\.layers\.[01]\..*|x"));
        assert!(!regex("q_proj") && !regex(r".*\.q"));
        let all = || TargetModules::Regex("All-Linear".into());
        assert!(targets(all(), Q) && targets(all(), "model.layers.12.mlp.down_proj"));
        assert!(!targets(all(), "lm_head") && !targets(all(), "model.layers.1.self_attn.rotary"));
    }

    #[test]
    fn look_ahead_is_understood() {
        let regex = |module: &str| targets(TargetModules::Regex(r"(?!.*layers\.0\.).*q_proj".into()), module);
        assert!(regex(Q) && !regex("model.layers.0.self_attn.q_proj"));
    }

    #[test]
    fn a_pattern_that_takes_too_many_steps_is_an_error() {
        let slow = TargetModules::Regex(r"(?=x?)(a*)*\1b".into());
        assert!(slow.matches(&"a".repeat(60)).unwrap_err().to_string().contains("can be used"));
    }

    #[test]
    fn the_layer_is_the_first_number_behind_a_matching_name() {
        let layer = |patterns: &[&str], module: &str| {
            layer_of(&patterns.iter().map(|p| p.to_string()).collect::<Vec<_>>(), module).unwrap()
        };
        assert_eq!(
            (layer(&[], Q), layer(&["layers"], Q), layer(&["h", "lay.*"], Q)),
            (Some(1), Some(1), Some(1))
        );
        assert_eq!((layer(&["h"], Q), layer(&[], "lm_head"), layer(&[], "layers.1.x")), (None, None, None));
        assert_eq!(layer(&["model.layers"], Q), Some(1));
    }
}
