//! Room for small results, many of which share one allocation.
//!
//! CubeCL 0.10 looks through all that a pool holds at each allocation. A graph holds thousands of small tensors: finding room for the next one
//! then takes the host longer than launching what fills it. Here room is handed out piece after piece, and a piece of memory is free again
//! once nobody holds a part of it.

use std::any::TypeId;
use std::cell::RefCell;
use std::collections::HashMap;

use burn_cubecl::CubeRuntime;
use burn_cubecl::cubecl::device::{Device, DeviceId};
use burn_cubecl::cubecl::server::Handle;
use burn_cubecl::tensor::CubeTensor;

/// Bytes of an allocation that is shared.
const SHARED: u64 = 4 << 20;
/// The largest part of it, as a fraction: what holds one keeps it all.
const SMALL: u64 = 32;
/// Where a part may begin: WebGPU promises no finer steps.
pub(super) const STEP: u64 = 256;

/// An allocation, and how much of it has been handed out.
struct Piece {
    memory: Handle,
    used: u64,
}

thread_local! {
    /// What each device gave last. Memory belongs to the queue of a thread.
    static LAST: RefCell<HashMap<(TypeId, DeviceId), Piece>> = RefCell::default();
}

/// Room for `bytes` on the device of `like`.
pub(super) fn room<R: CubeRuntime>(like: &CubeTensor<R>, bytes: usize) -> Handle {
    let (memory, wanted) = (&like.client.properties().memory, (bytes as u64).max(4));
    // A small device is not filled by what is kept for later.
    let shared = SHARED.min(memory.max_page_size / 64) / STEP * STEP;
    if wanted > shared / SMALL {
        return like.client.empty(bytes);
    }
    let step = memory.alignment.max(STEP);
    LAST.with_borrow_mut(|last| {
        let key = (TypeId::of::<R>(), like.device.to_id());
        let full = |piece: &Piece| piece.used + wanted > piece.memory.size();
        if last.get(&key).is_none_or(full) {
            last.insert(key, Piece { memory: like.client.empty(shared as usize), used: 0 });
        }
        let piece = last.get_mut(&key).expect("what was put there");
        let (start, end) = (piece.used, piece.used + wanted);
        piece.used = end.next_multiple_of(step);
        piece.memory.clone().offset_start(start).offset_end(piece.memory.size() - end)
    })
}
