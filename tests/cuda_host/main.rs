//! The host's side of the CUDA backend, on machines without a GPU: a driver and a compiler that do nothing (`tests/cuda_stub`) stand for a card.
//! They compute no number, count what they are asked for, and fail as a card does when they are told to.

#[cfg(feature = "cuda")]
mod failures;
#[cfg(feature = "cuda")]
mod launches;
#[cfg(feature = "cuda")]
#[path = "../shared/mod.rs"]
mod shared;
#[cfg(feature = "cuda")]
mod stub;

#[cfg(not(feature = "cuda"))]
#[test]
fn skipped_without_the_feature_cuda() {
    eprintln!("SKIPPED: the host's side of CUDA is not in this binary; build with --features cuda");
}
