//! Ctrl-C, and the signals that ask a program to end. Most work has either nothing to save or saves it as it goes: it ends at once,
//! whatever it is doing. Only what has to come to a good point first ([`Heard`]) is asked to; a second signal ends that at once, too. One of several
//! processes has no time for that.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use diffmas::engine::Cancel;
use diffmas::files::end_process;
use diffmas::training::LastState;
use diffmas::{Error, Result};

use super::{job, verbosity};

/// The exit code of work that was stopped.
pub const CODE: u8 = 130;

static STOP: LazyLock<Cancel> = LazyLock::new(Cancel::new);
static SILENT: AtomicBool = AtomicBool::new(false);
/// Pieces of work that come to a good point by themselves.
static HEARD: AtomicUsize = AtomicUsize::new(0);
static WORDS: Mutex<String> = Mutex::new(String::new());
static LAST: LazyLock<LastState> = LazyLock::new(LastState::default);

/// Starts listening.
pub fn install() {
    let result = ctrlc::set_handler(|| {
        if job::is_shared() {
            end_in_time();
        }
        let again = STOP.cancel();
        let heard = HEARD.load(Ordering::SeqCst) > 0;
        if !heard {
            verbosity::say(last_words());
        }
        if again || !heard {
            end_process(CODE.into());
        }
        if !SILENT.load(Ordering::SeqCst) {
            verbosity::note("\nstopping after the step in progress; press Ctrl-C again to stop at once");
        }
    });
    if let Err(e) = result {
        tracing::warn!("Ctrl-C will stop the program at once: {e}");
    }
}

/// Ends this process of several within the second that their launcher leaves them: what is finished is written by the first.
fn end_in_time() -> ! {
    if !job::is_first() {
        // Once one of its processes has ended, Open MPI leaves the others no more time.
        std::thread::sleep(Duration::from_secs(2));
    } else {
        match LAST.write() {
            Some(Err(e)) => verbosity::say(format_args!("error: {e}")),
            Some(Ok(dir)) => verbosity::say(format_args!("checkpoint in {}", dir.display())),
            None => {}
        }
        verbosity::say(last_words());
    }
    end_process(CODE.into())
}

/// What the first of several processes writes before it ends.
pub fn last_state() -> LastState {
    LAST.clone()
}

/// What is said when the work ends at once: what is kept, and how to go on.
pub fn set_words(text: impl Into<String>) {
    *words() = text.into();
}

fn last_words() -> String {
    Some(words().clone()).filter(|text| !text.is_empty()).unwrap_or_else(|| "interrupted".into())
}

fn words() -> MutexGuard<'static, String> {
    WORDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// While one lives, the work asks for [`requested`] often, and ends by itself.
pub struct Heard;

impl Heard {
    /// From now on the work listens.
    pub fn start() -> Self {
        HEARD.fetch_add(1, Ordering::SeqCst);
        Self
    }

    /// From now on it no longer does.
    ///
    /// # Errors
    /// If the user asked to stop too late for it to notice.
    pub fn finish(self) -> Result<()> {
        match requested() {
            true => Err(Error::Interrupted(last_words())),
            false => Ok(()),
        }
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        HEARD.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What Ctrl-C cancels.
pub fn cancel() -> &'static Cancel {
    &STOP
}

/// Whether the user asked to stop.
pub fn requested() -> bool {
    STOP.is_cancelled()
}

/// Says nothing from now on where work is asked to stop: in a chat, one sees the answer end.
pub fn silence() {
    SILENT.store(true, Ordering::SeqCst);
}
