//! `diffmas devices`

use diffmas::Result;
use diffmas::engine::devices;

use super::output;

/// Lists what is compiled in, and what starts.
pub fn execute() -> Result<()> {
    for found in devices() {
        let mut state = found.device.unwrap_or_else(|e| format!("not usable: {e}"));
        if let Some(adapter) = found.adapter {
            state = format!("{state}: {}, {}", adapter.name, adapter.api);
            if adapter.software {
                state.push_str("; no GPU but a program on the CPU, and slow");
            }
        }
        output::print(&format!("{:<8} {state}", found.kind.name()))?;
    }
    Ok(())
}
