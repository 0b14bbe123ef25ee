//! Fields that had other names before: files hold both names, so that programs which read them go on to work; either is read.

/// For `#[serde(flatten, with = "former_names::control")]`: `trace`.
pub mod control {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Both {
        control: Option<String>,
        trace: Option<String>,
    }

    pub fn serialize<S: Serializer>(value: &str, serializer: S) -> Result<S::Ok, S::Error> {
        let both = || Some(value.to_string());
        Both { control: both(), trace: both() }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        let both = Both::deserialize(deserializer)?;
        both.control.or(both.trace).ok_or_else(|| D::Error::missing_field("control"))
    }
}

/// For `#[serde(flatten, with = "former_names::question_index")]`: a number in `question`, which is a text now. Files of one question a line have
/// neither.
pub mod question_index {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use serde_json::Value;

    #[derive(Deserialize)]
    struct Either {
        question_index: Option<usize>,
        question: Option<Value>,
    }

    #[derive(Serialize)]
    struct Now {
        question_index: usize,
    }

    pub fn serialize<S: Serializer>(&question_index: &usize, serializer: S) -> Result<S::Ok, S::Error> {
        Now { question_index }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
        let Either { question_index, question } = Either::deserialize(deserializer)?;
        let former = question.and_then(|question| usize::try_from(question.as_u64()?).ok());
        Ok(question_index.or(former).unwrap_or(1))
    }
}

/// For `#[serde(flatten, with = "former_names::is_correct")]`: `right`.
pub mod is_correct {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Both {
        #[serde(skip_serializing_if = "Option::is_none")]
        is_correct: Option<bool>,
        #[serde(skip_serializing_if = "Option::is_none")]
        right: Option<bool>,
    }

    pub fn serialize<S: Serializer>(value: &Option<bool>, serializer: S) -> Result<S::Ok, S::Error> {
        Both { is_correct: *value, right: *value }.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
        Both::deserialize(deserializer).map(|both| both.is_correct.or(both.right))
    }
}
