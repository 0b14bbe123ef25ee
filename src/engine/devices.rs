//! Which backends are compiled in, and what they can run on here.

use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use burn::tensor::DType;
use burn::tensor::backend::DTypeUsage;
use candle_core::quantized::GgmlDType;
use diffmas_backends::{BackendKind, DeviceError, DeviceInfo, Job, ModelBackend, StoredDtype};

use crate::backbone::ComputeDtype;

/// How long a driver may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A backend that is compiled in.
#[derive(Debug)]
pub struct BackendState {
    /// The backend.
    pub kind: BackendKind,
    /// Its devices, or why it has none.
    pub devices: Result<Vec<DeviceState>, DeviceError>,
}

/// A device of a backend.
#[derive(Debug)]
pub struct DeviceState {
    /// What it is.
    pub info: DeviceInfo,
    /// What it can do, once it has computed something; or why it does not start.
    pub abilities: Result<Abilities, DeviceError>,
}

/// What a device can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// How weights can be stored, by the names of `--dtype`; `blocks` are all others of GGUF files.
    pub weights: Vec<&'static str>,
    /// What it has arithmetic for.
    pub arithmetic: Vec<&'static str>,
    /// What products of weights can be computed in, by the names of `--precision`.
    pub products: Vec<&'static str>,
    /// Bytes of the largest tensor, where something else than memory bounds it.
    pub largest_tensor: Option<u64>,
}

/// Asks a device what it can do.
struct Ask;

impl Job for Ask {
    type Output = Abilities;

    fn run<B: ModelBackend>(self, device: B::Device) -> Abilities {
        let stored = [
            ("f32", StoredDtype::F32),
            ("bf16", StoredDtype::Bf16),
            ("f16", StoredDtype::F16),
            ("q8", StoredDtype::Q8_0),
            ("q4", StoredDtype::Q4_0),
            ("blocks", GgmlDType::Q6K.into()),
        ];
        let computed = [("f32", DType::F32), ("bf16", DType::BF16), ("f16", DType::F16)];
        let computes = |dtype: DType| B::dtype_usage(&device, dtype).contains(DTypeUsage::Arithmetic);
        let weights = stored.into_iter().filter(|(_, dtype)| B::keeps(*dtype, &device));
        let arithmetic = computed.into_iter().filter(|(_, dtype)| computes(*dtype));
        let multiplies = |name: &str| {
            name.parse().is_ok_and(|dtype: ComputeDtype| B::multiplies(dtype.products(), &device).is_ok())
        };
        let products = ComputeDtype::NAMES.iter().copied().filter(|name| multiplies(name));
        Abilities {
            weights: weights.map(|(name, _)| name).collect(),
            arithmetic: arithmetic.map(|(name, _)| name).collect(),
            products: products.collect(),
            largest_tensor: B::largest_tensor(&device),
        }
    }
}

/// Starts every device of each backend that is compiled in, one after another. A driver that does not answer for 20 s is left alone.
pub fn devices() -> impl Iterator<Item = BackendState> {
    let state = |kind: BackendKind, info: DeviceInfo| {
        let index = Some(info.index);
        DeviceState { info, abilities: patiently(kind, move || kind.run(index, Ask)) }
    };
    BackendKind::ALL.iter().map(move |&kind| {
        let devices = patiently(kind, move || kind.devices());
        BackendState { kind, devices: devices.map(|all| all.into_iter().map(|d| state(kind, d)).collect()) }
    })
}

/// What `work` returns in time.
fn patiently<T: Send + 'static>(
    kind: BackendKind,
    work: impl FnOnce() -> Result<T, DeviceError> + Send + 'static,
) -> Result<T, DeviceError> {
    let (done, waits) = channel();
    thread::spawn(move || done.send(work()));
    waits.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        let reason = format!("its driver does not answer within {} s", PATIENCE.as_secs());
        Err(DeviceError::Missing { kind, reason })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backend_of_the_cpu_has_one_device_that_keeps_and_computes_f32() {
        for state in devices().filter(|state| state.kind.is_cpu()) {
            let [device] = &state.devices.unwrap()[..] else { panic!("one device") };
            let abilities = device.abilities.as_ref().unwrap();
            assert_eq!(abilities.weights, ["f32", "bf16", "f16", "q8", "q4", "blocks"]);
            assert!(abilities.arithmetic.contains(&"f32") && abilities.largest_tensor.is_none());
            assert_eq!(abilities.products, ["f32"]);
            assert_eq!((device.info.index, device.info.software), (0, false));
        }
    }
}
