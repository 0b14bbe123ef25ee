//! Whether the questions of a line can read one message.

use std::path::Path;

use super::TeamConfig;
use crate::error::{Error, Result};
use crate::text::{TokenizedSample, lines};

/// Checks that the questions of each line in the file at `path` prompt every upstream agent alike: what it sends is computed once a line.
///
/// # Errors
/// Names line, agent and question of a prompt that differs.
pub fn check_lines(config: &TeamConfig, path: &Path, samples: &[TokenizedSample]) -> Result<()> {
    for line in lines(samples).into_iter().map(|line| &samples[line]) {
        for (j, agent) in config.upstream().iter().enumerate() {
            let Some(other) = line.iter().find(|s| !s.reads_alike(&line[0], j)) else { continue };
            return Err(Error::line(
                path,
                other.line,
                format!(
                    "the prompt of agent `{}` for `questions[{}]` is not that for `questions[{}]`, but its message is computed once a line; \
                     let only the final agent's prompt hold what differs between questions",
                    agent.name,
                    other.question - 1,
                    line[0].question - 1,
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::AgentConfig;
    use super::*;

    #[test]
    fn upstream_prompts_that_differ_within_a_line_name_line_agent_and_question() {
        let agents = ["planner", "critic", "solver"].map(AgentConfig::named).to_vec();
        let config = TeamConfig { agents, ..TeamConfig::default() };
        let sample = |line, question, critic: u32, solver: u32| TokenizedSample {
            line,
            question,
            prompts: vec![vec![1], vec![critic], vec![solver]],
            ..TokenizedSample::default()
        };
        let check = |samples: &[TokenizedSample]| check_lines(&config, Path::new("d.jsonl"), samples);
        check(&[sample(1, 1, 2, 3), sample(2, 1, 4, 5), sample(2, 2, 4, 6)]).unwrap();
        let error = check(&[sample(1, 1, 2, 3), sample(2, 1, 4, 5), sample(2, 2, 4, 5), sample(2, 3, 7, 5)]);
        let error = error.unwrap_err().to_string();
        let expected =
            "d.jsonl, line 2: the prompt of agent `critic` for `questions[2]` is not that for `questions[0]`";
        assert!(error.starts_with(expected), "{error}");
    }
}
