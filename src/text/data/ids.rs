//! Lines that hold token ids.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::kind::{Answers, kind};

/// The token ids of a pre-tokenised line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampleIds {
    /// The prompt of each role.
    pub prompt_ids: BTreeMap<String, Vec<u32>>,
    /// What the final agent should give, end of turn included; empty if the line has none.
    pub target_ids: Vec<u32>,
    /// What upstream agents should write, end of turn included: the field `trajectory_ids`.
    pub trajectory_ids: BTreeMap<String, Vec<u32>>,
}

/// The ids of a line.
pub(super) fn sample_ids(
    fields: &Map<String, Value>,
    answers: Answers,
) -> std::result::Result<SampleIds, String> {
    let roles = match fields.get("prompt_ids") {
        Some(Value::Object(roles)) => roles,
        None => return Err("field `prompt_ids` is missing".into()),
        Some(other) => {
            return Err(format!("field `prompt_ids` must be an object of lists, found {}", kind(other)));
        }
    };
    let by_role = |field: &str, roles: &Map<String, Value>| {
        let mut all = BTreeMap::new();
        for (role, value) in roles {
            let name = format!("{field}.{role}");
            let ids = token_ids(&name, value)?;
            if ids.is_empty() {
                return Err(format!("field `{name}` is empty"));
            }
            all.insert(role.clone(), ids);
        }
        Ok(all)
    };
    let prompt_ids = by_role("prompt_ids", roles)?;
    let trajectory_ids = match fields.get("trajectory_ids") {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(Value::Object(roles)) => by_role("trajectory_ids", roles)?,
        Some(other) => {
            return Err(format!("field `trajectory_ids` must be an object of lists, found {}", kind(other)));
        }
    };
    let target_ids = match fields.get("target_ids") {
        None | Some(Value::Null) if answers == Answers::Optional => Vec::new(),
        None => return Err("field `target_ids` is missing".into()),
        Some(value) => token_ids("target_ids", value)?,
    };
    if target_ids.is_empty() && answers == Answers::Required {
        return Err("field `target_ids` is empty".into());
    }
    Ok(SampleIds { prompt_ids, target_ids, trajectory_ids })
}

fn token_ids(name: &str, value: &Value) -> std::result::Result<Vec<u32>, String> {
    let Value::Array(ids) = value else {
        return Err(format!("field `{name}` must be a list of token ids, found {}", kind(value)));
    };
    let parse = |(index, id): (usize, &Value)| {
        id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            let found = if id.is_number() { id.to_string() } else { kind(id).to_string() };
            format!("field `{name}[{index}]` must be a token id (an integer from 0), found {found}")
        })
    };
    ids.iter().enumerate().map(parse).collect()
}
