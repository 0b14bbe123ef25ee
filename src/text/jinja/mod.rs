//! Templates whose text nobody vouches for: what they compute, write and hold is bounded, and so is the time they take.
//!
//! A worker thread compiles the templates once and renders them as long as somebody holds them. Its stack is deep enough for the
//! deepest value that a template's steps can build, and who waits for it does not wait for ever.

mod builtins;
mod compile;
mod filters;
mod methods;
mod operators;
mod values;

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use minijinja::machinery::{Vm, make_string_output};
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, Value};

use crate::guard::guarded;
use compile::{Compiled, compile};

/// Instructions of one rendering. A conversation of a thousand turns takes some ten thousands.
const FUEL: u64 = 1_000_000;
/// Enough to drop or to print a value that is nested as deep as [`FUEL`] allows; only what is used is taken.
const STACK: usize = 512 << 20;
const DEADLINE: Duration = Duration::from_millis(1200);
/// What is shown of a template's own words.
const MAX_MESSAGE: usize = 1000;
/// Bytes of a prompt: half a million tokens.
const MAX_PROMPT: usize = 2 << 20;

/// How templates are read.
#[derive(Clone, Copy)]
pub struct Style {
    /// Whether newlines after tags and spaces before them do not count, as for `transformers`.
    pub trim: bool,
    /// Whether a variable that is not there is an error, or empty.
    pub strict: bool,
}

/// What went wrong in a template.
#[derive(Debug)]
pub struct Failure {
    /// What and on which line of the template, on one line.
    pub what: String,
    /// Whether the reason is a variable that is not there.
    pub undefined: bool,
}

impl Failure {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), undefined: false }
    }
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Self {
        let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
        let what = match error.kind() {
            ErrorKind::OutOfFuel => format!("it takes more than {FUEL} steps"),
            _ => what,
        };
        let mut shown: String = what.chars().take(MAX_MESSAGE).collect();
        if shown.len() < what.len() {
            shown.push('…');
        }
        if let Some(line) = error.line() {
            shown = format!("{shown} (line {line} of the template)");
        }
        Self { what: shown, undefined: error.kind() == ErrorKind::UndefinedError }
    }
}

type Answer<T> = std::result::Result<T, Failure>;

/// The variables of each template, or which of them is none and why.
type Outcome = std::result::Result<Vec<BTreeSet<String>>, (usize, Failure)>;

struct Request {
    template: usize,
    context: Value,
    answer: Sender<Answer<String>>,
}

/// Compiled templates. Renderings by several threads come one after another.
pub struct Templates {
    worker: Mutex<Option<Sender<Request>>>,
    variables: Vec<BTreeSet<String>>,
}

impl std::fmt::Debug for Templates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Templates").field("variables", &self.variables).finish_non_exhaustive()
    }
}

impl Templates {
    /// Compiles `sources`; each template sees `globals`.
    ///
    /// # Errors
    /// Which of the sources is not a template, and why.
    pub fn new(
        sources: Vec<String>,
        globals: Vec<(&'static str, String)>,
        style: Style,
    ) -> std::result::Result<Self, (usize, Failure)> {
        let (requests, received) = channel();
        let (compiled, outcome) = channel();
        let work = move || {
            let failed = compiled.clone();
            if let Err(panic) = guarded(|| work(&sources, globals, style, &compiled, &received)) {
                // Nobody listens if the panic came after compiling; their requests are dropped with `received`.
                let _ = failed.send(Err((0, Failure::new(panic))));
            }
        };
        let spawned = std::thread::Builder::new().name("templates".into()).stack_size(STACK).spawn(work);
        spawned.map_err(|e| (0, Failure::new(format!("no thread for it can be started: {e}"))))?;
        let variables = outcome.recv_timeout(DEADLINE).map_err(|e| (0, given_up(e)))??;
        Ok(Self { worker: Mutex::new(Some(requests)), variables })
    }

    /// The text of the template at `index` of the sources with the variables of `context`.
    ///
    /// # Errors
    /// When the template refuses the variables, or takes too much time or memory.
    pub fn render(&self, index: usize, context: Value) -> Answer<String> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        let (answer, outcome) = channel();
        let sent = worker.as_ref().map(|worker| worker.send(Request { template: index, context, answer }));
        if !matches!(sent, Some(Ok(()))) {
            return Err(Failure::new("it has been given up at an earlier prompt"));
        }
        outcome.recv_timeout(DEADLINE).unwrap_or_else(|e| {
            // The thread is at it still, and is left alone.
            *worker = None;
            Err(given_up(e))
        })
    }

    /// The variables that the template at `index` reads and does not set, with their attributes as dotted paths.
    pub fn variables(&self, index: usize) -> &BTreeSet<String> {
        &self.variables[index]
    }

    /// Whether the template at `index` reads a variable.
    pub fn reads(&self, index: usize, variable: &str) -> bool {
        let root = |path: &String| path.split('.').next() == Some(variable);
        self.variables[index].iter().any(root)
    }
}

fn given_up(reason: RecvTimeoutError) -> Failure {
    Failure::new(match reason {
        RecvTimeoutError::Timeout => format!("it takes longer than {} ms", DEADLINE.as_millis()),
        RecvTimeoutError::Disconnected => "it cannot be computed".to_string(),
    })
}

/// Compiles, and renders until nobody asks any more.
fn work(
    sources: &[String],
    globals: Vec<(&'static str, String)>,
    style: Style,
    outcome: &Sender<Outcome>,
    requests: &Receiver<Request>,
) {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    if style.strict {
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
    }
    builtins::add(&mut environment);
    for (name, value) in globals {
        environment.add_global(name, value);
    }
    let mut templates = Vec::with_capacity(sources.len());
    for (index, source) in sources.iter().enumerate() {
        match compile("template", source, style.trim) {
            Ok(template) => templates.push(template),
            Err(e) => return drop(outcome.send(Err((index, (&e).into())))),
        }
    }
    let is_global = |path: &String| environment.globals().any(|(name, _)| name == path);
    let variables = |t: &Compiled<'_>| t.variables.iter().filter(|path| !is_global(path)).cloned().collect();
    if outcome.send(Ok(templates.iter().map(variables).collect())).is_err() {
        return;
    }
    while let Ok(Request { template, context, answer }) = requests.recv() {
        let text = guarded(|| render(&environment, &templates[template], context));
        let text = text.map_err(Failure::new).and_then(|text| text.map_err(|e| (&e).into()));
        // Who asked may have given up.
        let _ = answer.send(text);
    }
}

fn render(environment: &Environment<'_>, template: &Compiled<'_>, context: Value) -> values::Result<String> {
    if context.kind() != ValueKind::Map {
        return Err(values::invalid("its variables are no mapping"));
    }
    values::start_account();
    let mut text = String::new();
    let mut out = make_string_output(&mut text);
    let none = AutoEscape::None;
    Vm::new(environment).eval(&template.root, context, &template.blocks, &mut out, none)?;
    if text.len() > MAX_PROMPT {
        return Err(values::invalid(format!("the prompt is longer than {} MB", MAX_PROMPT >> 20)));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
