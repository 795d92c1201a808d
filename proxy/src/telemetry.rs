//! What is told about traffic: metrics, and a log line for each request that failed.

pub mod access_log;
pub mod exemplar;
pub mod exposition;
pub mod histogram;
pub mod metrics;
pub mod otlp;
pub mod output;
pub mod trace;
