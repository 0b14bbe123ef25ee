//! The team that is used when the user names none: the four roles of the paper, in our own words.

use super::team::{AgentConfig, TeamConfig};

impl TeamConfig {
    /// Planner, critic, refiner and solver, one after another.
    ///
    /// The prompts are short, for small chat models, and use one field of the data line: `question`.
    pub fn preset() -> Self {
        let roles = [
            (
                "planner",
                "You are the planner of a team.",
                "Question: {{ question }}\n\n\
                 Plan how to find the answer: say what is asked, what is given, and which steps lead there. \
                 Do not give the answer yet.",
            ),
            (
                "critic",
                "You are the critic of a team.",
                "Question: {{ question }}\n\n\
                 Check the plan you were given: look for wrong assumptions, missing steps and traps in the \
                 question. Do not give the answer yet.",
            ),
            (
                "refiner",
                "You are the refiner of a team.",
                "Question: {{ question }}\n\n\
                 Use the plan and the criticism you were given to work out a better plan. Do not \
                 give the answer yet.",
            ),
            (
                "solver",
                "You are the solver of a team.",
                "Question: {{ question }}\n\n\
                 Use what the team has worked out and answer the question. Give only the final answer.",
            ),
        ];
        let agents = roles
            .into_iter()
            .map(|(name, system, user)| AgentConfig {
                system: Some(system.to_string()),
                user: Some(user.to_string()),
                ..AgentConfig::named(name)
            })
            .collect();
        TeamConfig { agents, ..TeamConfig::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::PromptBuilder;
    use super::*;
    use crate::text::Sample;

    #[test]
    fn the_preset_is_the_papers_team_and_is_valid() {
        let team = TeamConfig::preset();
        let names: Vec<&str> = team.agents.iter().map(|agent| agent.name.as_str()).collect();
        assert_eq!(names, ["planner", "critic", "refiner", "solver"]);
        team.validate().unwrap();
    }

    #[test]
    fn the_preset_needs_only_the_question() {
        let team = TeamConfig::preset();
        let builder = PromptBuilder::new(&team.agents, None).unwrap();
        let fields = serde_json::json!({"question": "Why?"}).as_object().unwrap().clone();
        let sample = Sample { line: 1, fields, ..Sample::default() };
        for index in 0..team.agents.len() {
            let messages = builder.messages("data.jsonl".as_ref(), &sample, index).unwrap();
            assert_eq!(messages.len(), 2);
            assert!(messages[1].content.starts_with("Question: Why?\n\n"));
        }
    }
}
