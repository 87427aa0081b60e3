//! The drop-in layers: burn's own as the reference, records in files, masks, caches, every method, burn modules.
#![cfg(feature = "train")]

#[path = "../common/mod.rs"]
mod common;

mod cache;
mod cross_attention;
mod methods;
mod modules;
mod padding;
mod parity;
mod records;
mod support;
