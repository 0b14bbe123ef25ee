//! What a chat says of its team.

use diffmas::agents::{MessageDtype, TeamConfig};
use diffmas::engine::{MessageSize, Received};
use diffmas::evaluation::{Latents, LensToken};
use indicatif::HumanBytes;

/// One line an agent: what it does and what it leaves.
pub(super) fn describe_team(team: &TeamConfig) -> String {
    let last = team.agents.len() - 1;
    let describe = |j: usize| {
        let name = &team.agents[j].name;
        if j == last {
            return format!("{name}: answers");
        }
        let channel = team.channel.kind;
        if channel.text {
            return format!("{name}: writes at most {} tokens", team.message_tokens(j));
        }
        let (steps, transmit, feed) = (team.steps(j), team.transmit(j), team.feed(j));
        let segment = channel.segments.then(|| format!("{transmit} in the trace"));
        let state = if channel.replaces { "a new state of " } else { "" };
        let vectors = team.vectors().map(|[m, _]| format!("{state}{m} vectors"));
        let leaves: Vec<String> = segment.into_iter().chain(vectors).collect();
        let leaves =
            if leaves.is_empty() { format!("`{channel}`: {}", channel.about) } else { leaves.join(" and ") };
        let rounded = match team.message_dtype {
            MessageDtype::F32 => String::new(),
            dtype => format!(" as {dtype}"),
        };
        format!("{name}: {steps} latent steps, feed {feed}, leaves {leaves}{rounded}")
    };
    (0..=last).map(describe).collect::<Vec<_>>().join("\n")
}

/// One line a message, and their sum; on the channel `text`, what was written.
pub(super) fn describe_received(received: &Received) -> String {
    if !received.written.is_empty() {
        let lines = received.written.iter().map(|w| format!("{} wrote: {}", w.sender, w.text));
        return lines.collect::<Vec<_>>().join("\n");
    }
    let describe = |message: &MessageSize| {
        let segment = message
            .segment
            .map(|[prompt, all]| format!("{all} positions ({prompt} prompt, {} latent)", all - prompt));
        let vectors = message.vectors.map(|[m, c]| format!("{m} vectors of {c} numbers"));
        let parts: Vec<String> = segment.into_iter().chain(vectors).collect();
        format!("{}: {}, {}", message.sender, parts.join(" and "), HumanBytes(message.bytes as u64))
    };
    let mut lines: Vec<String> = received.messages.iter().map(describe).collect();
    let (positions, bytes) = (received.positions, HumanBytes(received.bytes as u64));
    lines.push(format!("the final agent read {positions} positions, {bytes}"));
    lines.join("\n")
}

/// One line a latent position: the tokens that it is nearest to, under the model's head.
pub(super) fn describe_latents(latents: &[Latents]) -> String {
    let near = |t: &LensToken| format!("{:?} {:.0} %", t.token, 100.0 * t.probability);
    let lines = latents.iter().flat_map(|of| {
        (1..).zip(&of.positions).map(|(t, near_to)| {
            let near: Vec<String> = near_to.iter().map(near).collect();
            format!("{} {t}: {}", of.sender, near.join(", "))
        })
    });
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { "no agent of this team has latent positions".into() } else { lines.join("\n") }
}
