//! Which modules an adapter changes: PEFT's rules for names and patterns.

use crate::error::{Error, Result};
use regex::{Regex, RegexBuilder};

/// The modules of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetModules {
    /// Modules whose name is an entry or ends with a dot and an entry.
    List(Vec<String>),
    /// Modules whose whole path the regular expression matches; `all-linear` means every projection of every
    /// layer.
    Regex(String),
}

/// The projections of one layer, which are all that an adapter here can change.
pub const PROJECTIONS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

impl TargetModules {
    /// Whether the module (`model.layers.0.self_attn.q_proj`) is one of them: PEFT's
    /// `check_target_module_exists`.
    ///
    /// # Errors
    /// When the regular expression is invalid.
    pub fn matches(&self, module: &str) -> Result<bool> {
        match self {
            Self::List(names) => Ok(names.iter().any(|name| ends_with_module(module, name))),
            Self::Regex(pattern) if is_all_linear(pattern) => Ok(is_projection(module)),
            Self::Regex(pattern) => Ok(full_match(pattern)?.is_match(module)),
        }
    }

    /// Checks that there is something to match with.
    ///
    /// # Errors
    /// When the list or text is empty, or the regular expression is invalid.
    pub fn check(&self) -> Result<()> {
        let empty = || Err(Error::invalid("the field `target_modules` is empty"));
        match self {
            Self::List(names) if names.is_empty() => empty(),
            Self::Regex(pattern) if pattern.is_empty() => empty(),
            Self::Regex(pattern) if !is_all_linear(pattern) => full_match(pattern).map(drop),
            _ => Ok(()),
        }
    }
}

/// The names of the projections, as `target_modules` lists them: `q_proj` to `down_proj`.
pub fn projection_names() -> [&'static str; 7] {
    PROJECTIONS.map(|path| path.rsplit_once('.').map_or(path, |(_, name)| name))
}

/// Whether `module` is one of the seven projections of a layer.
pub(super) fn is_projection(module: &str) -> bool {
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

/// Python's `re.fullmatch`.
fn full_match(pattern: &str) -> Result<Regex> {
    compile(&format!(r"\A(?:{pattern})\z")).map_err(|cause| {
        let why = "is not a list of names, nor a regular expression that can be used (look-around cannot)";
        Error::invalid(format!("the field `target_modules` {why}: {cause}"))
    })
}

/// The regular expression `pattern`, or why it is none, on one line. Names of modules need no large ones.
fn compile(pattern: &str) -> std::result::Result<Regex, String> {
    const LARGEST: usize = 1 << 20;
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
}
