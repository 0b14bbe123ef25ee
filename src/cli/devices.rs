//! `diffmas devices`

use diffmas::Result;
use diffmas::backends::{BackendKind, Job, ModelBackend};

use super::output;

/// Asks a backend for the name of its device.
struct Name;

impl Job for Name {
    type Output = String;

    fn run<B: ModelBackend>(self, device: B::Device) -> String {
        format!("{} on {device:?}", B::name(&device))
    }
}

/// Lists what is compiled in, and what starts.
pub fn execute() -> Result<()> {
    for kind in BackendKind::ALL {
        let mut state = kind.run(None, Name).unwrap_or_else(|e| format!("not usable: {e}"));
        if let Some(adapter) = kind.adapter(None) {
            state = format!("{state}: {}, {}", adapter.name, adapter.api);
            if adapter.software {
                state.push_str("; no GPU but a program on the CPU, and slow");
            }
        }
        output::print(&format!("{:<8} {state}", kind.name()))?;
    }
    Ok(())
}
