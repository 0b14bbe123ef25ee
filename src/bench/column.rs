//! What was measured on one backend in numbers of one precision.

use serde::{Deserialize, Serialize};

use super::measurement::Measurement;
use super::work::Work;
use crate::backbone::{ComputeDtype, Precision, WeightDtype};

/// What is told while works are done on one backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum ColumnEvent {
    /// The device has started.
    Started {
        /// The device as the backend calls it.
        device: String,
        /// What a graphics API runs on.
        adapter: Option<String>,
    },
    /// Nothing is measured here, and that is as it should be.
    LeftOut {
        /// Why.
        reason: String,
    },
    /// A work begins.
    Begins {
        /// Which.
        work: Work,
    },
    /// A work is done.
    Measured {
        /// What it came to.
        measurement: Measurement,
    },
    /// A work is not for this model.
    Skipped {
        /// Which.
        work: Work,
        /// Why.
        reason: String,
    },
    /// Something went wrong; no work follows.
    Failed {
        /// What.
        reason: String,
    },
    /// No work follows.
    Finished {
        /// The most memory that the process had, where the system tells.
        peak_memory_bytes: Option<u64>,
        /// The most that the backend's allocator had taken from the device at the end of any work; none where tensors lie in the
        /// process's own memory.
        peak_device_memory_bytes: Option<u64>,
    },
}

/// What was measured on one backend in numbers of one precision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// The backend.
    pub backend: String,
    /// How weights are stored.
    pub dtype: WeightDtype,
    /// What products with them are computed in.
    #[serde(default)]
    pub precision: ComputeDtype,
    /// The device as the backend calls it, once it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// What a graphics API runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// The work at which it went wrong or was stopped, if it had begun with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Work>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Why nothing is measured here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
    /// Whether all works were done.
    pub finished: bool,
    /// Works that are done.
    pub measurements: Vec<Measurement>,
    /// Works that are not for this model, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<(Work, String)>,
    /// The most memory that the process had in which only this column was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// The most that the backend's allocator had taken from the device at the end of any work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_memory_bytes: Option<u64>,
}

impl Column {
    /// Nothing measured yet.
    pub fn new(backend: impl Into<String>, precision: Precision) -> Self {
        Self {
            backend: backend.into(),
            dtype: precision.weights,
            precision: precision.compute,
            device: None,
            adapter: None,
            at: None,
            failed: None,
            left_out: None,
            finished: false,
            measurements: Vec::new(),
            skipped: Vec::new(),
            peak_memory_bytes: None,
            peak_device_memory_bytes: None,
        }
    }

    /// What stands above it.
    pub fn name(&self) -> String {
        let products = match self.precision {
            ComputeDtype::F32 => String::new(),
            precision => format!(", {precision} products"),
        };
        format!("{} {}{products}", self.backend, self.dtype)
    }

    /// Takes in what is told.
    pub fn add(&mut self, event: ColumnEvent) {
        match event {
            ColumnEvent::Started { device, adapter } => {
                (self.device, self.adapter) = (Some(device), adapter);
            }
            ColumnEvent::LeftOut { reason } => self.left_out = Some(reason),
            ColumnEvent::Begins { work } => self.at = Some(work),
            ColumnEvent::Measured { measurement } => {
                self.at = None;
                self.measurements.push(measurement);
            }
            ColumnEvent::Skipped { work, reason } => self.skipped.push((work, reason)),
            // What comes first is the cause of what follows.
            ColumnEvent::Failed { reason } => {
                self.failed.get_or_insert(reason);
            }
            ColumnEvent::Finished { peak_memory_bytes, peak_device_memory_bytes } => {
                self.finished = self.failed.is_none();
                self.peak_memory_bytes = peak_memory_bytes;
                self.peak_device_memory_bytes = peak_device_memory_bytes;
            }
        }
    }

    /// What `work` came to.
    pub fn find(&self, work: Work) -> Option<&Measurement> {
        self.measurements.iter().find(|m| m.work == work)
    }
}
