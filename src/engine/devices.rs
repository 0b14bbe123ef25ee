//! Which backends are compiled in, and whether they work here.

use diffmas_backends::{Adapter, BackendKind, DeviceError, Job, ModelBackend};

/// A backend that is compiled in.
#[derive(Debug)]
pub struct DeviceState {
    /// The backend.
    pub kind: BackendKind,
    /// Its device by name, or why it does not start.
    pub device: Result<String, DeviceError>,
    /// What a graphics API runs on, once it has started.
    pub adapter: Option<Adapter>,
}

/// Asks a backend for the name of its device.
struct Name;

impl Job for Name {
    type Output = String;

    fn run<B: ModelBackend>(self, device: B::Device) -> String {
        format!("{} on {device:?}", B::name(&device))
    }
}

/// Starts the device of each backend that is compiled in, one after another.
pub fn devices() -> impl Iterator<Item = DeviceState> {
    BackendKind::ALL.iter().map(|&kind| {
        let device = kind.run(None, Name);
        DeviceState { kind, device, adapter: kind.adapter(None) }
    })
}
