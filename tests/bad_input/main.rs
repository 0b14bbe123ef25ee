//! Every wrong input is answered with one sentence that names the place, and nothing half-written stays.

#[path = "../shared/mod.rs"]
mod shared;

mod adapter;
mod bench;
mod channels;
mod data;
mod model;
mod network;
mod origin;
mod output;
mod report;
mod resume;
mod settings;
#[cfg(unix)]
mod sizes;
mod teacher;
mod team;
mod weights;
