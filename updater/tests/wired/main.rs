//! The head and the hands against a node that remembers: rung 2.

mod bus;
mod cuts;
mod fake;
mod gate;
mod introspection;
mod network;
mod stages;
