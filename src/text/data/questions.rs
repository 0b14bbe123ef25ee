//! A data line that holds several questions: one sample for each.

use serde_json::{Map, Value};

use super::forms::{FORMS, Sample, sample};
use super::kind::{Answers, kind};

/// Most questions of a line: each becomes a sample.
const MOST_QUESTIONS: usize = 1024;
/// Most bytes that the samples of a line take together, each of which has all fields of the line.
const MOST_BYTES: usize = 1 << 30;

/// What the questions of a line have in common and only the line may hold.
const OF_LINE: [&str; 3] = ["questions", "trajectories", "trajectory_ids"];

/// The samples of a line of `bytes` bytes that holds `questions`: the fields of each, over those of the line.
///
/// # Errors
/// Names the field: a list that is none, is empty or too long; a question that is no object, or wrong as a line of its own would be; a field that
/// belongs to the questions on the line, or the other way round.
pub(super) fn samples(
    line: usize,
    fields: &Map<String, Value>,
    questions: Value,
    bytes: usize,
    answers: Answers,
) -> Result<Vec<Sample>, String> {
    let Value::Array(questions) = questions else {
        return Err(format!("field `questions` must be a list of objects, found {}", kind(&questions)));
    };
    let own = |name: &&&str| fields.contains_key(**name) && **name != "prompt_ids";
    if let Some(name) = FORMS.concat().iter().find(own) {
        return Err(format!(
            "fields `questions` and `{name}` exclude each other; move `{name}` into the questions"
        ));
    }
    match questions.len() {
        0 => return Err("field `questions` is empty".into()),
        n if n > MOST_QUESTIONS => {
            return Err(format!("field `questions` holds {n} questions; a line may have {MOST_QUESTIONS}"));
        }
        n if bytes.saturating_mul(n) > MOST_BYTES => {
            return Err(format!(
                "{n} questions, each with all fields of a line of {bytes} bytes, are too much; make several lines of it"
            ));
        }
        _ => {}
    }
    let one = |(index, question)| {
        let merged = merged(fields, question);
        let sample = merged.and_then(|fields| sample(line, index + 1, fields, answers));
        sample.map_err(|e| format!("`questions[{index}]`: {e}"))
    };
    questions.into_iter().enumerate().map(one).collect()
}

/// The fields of a question over those of its line; the prompts of roles stand beside each other.
fn merged(line: &Map<String, Value>, question: Value) -> Result<Map<String, Value>, String> {
    let Value::Object(question) = question else {
        return Err(format!("expected an object, found {}", kind(&question)));
    };
    if let Some(name) = OF_LINE.iter().find(|name| question.contains_key(**name)) {
        return Err(format!("field `{name}` belongs to the line, once for all its questions"));
    }
    let turns = |name: &&&str| question.get(**name).is_some_and(Value::is_array);
    if let Some(name) = ["messages", "conversations", "prompt"].iter().find(turns) {
        return Err(format!(
            "field `{name}` makes a line of its own; give a question `question` and `answer`"
        ));
    }
    let mut fields = line.clone();
    for (name, value) in question {
        match (fields.get_mut(&name), value) {
            (Some(Value::Object(roles)), Value::Object(own)) if name == "prompt_ids" => {
                if let Some(role) = own.keys().find(|role| roles.contains_key(*role)) {
                    return Err(format!(
                        "field `prompt_ids.{role}` stands on the line, too; keep one of them"
                    ));
                }
                roles.extend(own);
            }
            (_, value) => {
                fields.insert(name, value);
            }
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(line: Value, answers: Answers) -> Result<Vec<Sample>, String> {
        let Value::Object(mut fields) = line else { unreachable!("an object") };
        let bytes = fields.iter().map(|(name, value)| name.len() + value.to_string().len()).sum();
        let questions = fields.remove("questions").unwrap();
        samples(7, &fields, questions, bytes, answers)
    }

    #[test]
    fn each_question_is_a_sample_with_the_fields_of_its_line() {
        let questions =
            json!([{"question": "q1", "answer": "a1"}, {"prompt": "q2", "completion": "a2", "gold": 2}]);
        let line = json!({"facts": "f", "gold": 1, "trajectories": {"a": "t"}, "questions": questions});
        let samples = of(line, Answers::Required).unwrap();
        for (sample, number) in samples.iter().zip([1, 2]) {
            assert_eq!((sample.line, sample.question), (7, number));
            assert_eq!((&sample.fields["facts"], &sample.fields["gold"]), (&json!("f"), &json!(number)));
            assert_eq!(sample.fields["question"], format!("q{number}"));
            assert_eq!(sample.answer, Some(format!("a{number}")));
            assert_eq!(sample.trajectories["a"], "t");
            assert!(!sample.fields.contains_key("questions"));
        }
        assert_eq!(samples.len(), 2);
    }

    #[test]
    fn token_ids_of_upstream_agents_stand_on_the_line() {
        let questions = json!([{"prompt_ids": {"b": [2]}, "target_ids": [3]}, {"prompt_ids": {"b": [4, 5]}, "target_ids": [6]}]);
        let line = json!({"prompt_ids": {"a": [1]}, "trajectory_ids": {"a": [9]}, "questions": questions});
        let samples = of(line, Answers::Required).unwrap();
        let ids: Vec<_> = samples.iter().map(|s| s.ids.as_ref().unwrap()).collect();
        assert!(ids.iter().all(|ids| ids.prompt_ids["a"] == [1] && ids.trajectory_ids["a"] == [9]));
        assert_eq!((&ids[0].prompt_ids["b"], &ids[1].prompt_ids["b"]), (&vec![2], &vec![4, 5]));
        assert_eq!((&ids[0].target_ids, &ids[1].target_ids), (&vec![3], &vec![6]));
    }

    #[test]
    fn answers_of_questions_may_be_missing_when_they_are_optional() {
        let line = json!({"questions": [{"question": "q1"}, {"question": "q2", "answer": "a2"}]});
        let samples = of(line, Answers::Optional).unwrap();
        assert_eq!(samples.iter().map(|s| s.answer.as_deref()).collect::<Vec<_>>(), [None, Some("a2")]);
    }

    #[test]
    fn mistakes_name_the_question_and_its_field() {
        let one = json!({"question": "q", "answer": "a"});
        let ids = |ids: Value| json!({"prompt_ids": {"a": [1]}, "questions": [{"prompt_ids": ids, "target_ids": [1]}]});
        for (line, message) in [
            (json!({"questions": []}), "field `questions` is empty"),
            (json!({"questions": null}), "field `questions` must be a list of objects, found null"),
            (json!({"questions": "q"}), "field `questions` must be a list of objects, found a string"),
            (json!({"questions": ["q"]}), "`questions[0]`: expected an object, found a string"),
            (
                json!({"questions": vec![&one; 1025]}),
                "field `questions` holds 1025 questions; a line may have 1024",
            ),
            (
                json!({"question": "q", "answer": "a", "questions": [one]}),
                "fields `questions` and `question` exclude each other",
            ),
            (
                json!({"answer": "a", "questions": [one]}),
                "fields `questions` and `answer` exclude each other",
            ),
            (
                json!({"messages": [], "questions": [one]}),
                "fields `questions` and `messages` exclude each other",
            ),
            (json!({"target_ids": [1], "questions": [one]}), "fields `questions` and `target_ids` exclude"),
            (json!({"questions": [one, {"question": "q"}]}), "`questions[1]`: field `answer` is missing"),
            (
                json!({"questions": [one, {"question": " ", "answer": "a"}]}),
                "`questions[1]`: field `question` is empty",
            ),
            (json!({"questions": [{"gold": 1}]}), "`questions[0]`: no known form; expected"),
            (
                json!({"questions": [{"question": "q", "answer": "a", "trajectories": {}}]}),
                "`questions[0]`: field `trajectories` belongs to the line",
            ),
            (
                json!({"questions": [{"question": "q", "answer": "a", "questions": [one]}]}),
                "`questions[0]`: field `questions` belongs to the line",
            ),
            (
                json!({"questions": [{"messages": []}]}),
                "`questions[0]`: field `messages` makes a line of its own",
            ),
            (ids(json!({"a": [2]})), "`questions[0]`: field `prompt_ids.a` stands on the line, too"),
            (ids(json!([2])), "`questions[0]`: field `prompt_ids` must be an object of lists"),
            (
                json!({"prompt_ids": {"a": [1]}, "questions": [one]}),
                "`questions[0]`: fields `question` and `prompt_ids` belong to different forms",
            ),
        ] {
            let error = of(line.clone(), Answers::Required).unwrap_err();
            assert!(error.starts_with(message), "{line}: {error}");
        }
    }

    #[test]
    fn fields_of_a_long_line_are_not_repeated_without_end() {
        let line = json!({"facts": "f".repeat(2 << 20), "questions": vec![json!({"question": "q"}); 1000]});
        let error = of(line, Answers::Optional).unwrap_err();
        assert!(error.starts_with("1000 questions, each with all fields of a line of "), "{error}");
    }
}
