//! The drop-in layers: parity with burn's layers, records in files, masks, caches, every method, and burn modules.
#![cfg(feature = "train")]

mod cache;
mod cross_attention;
mod methods;
mod modules;
mod padding;
mod parity;
mod records;
mod support;
