//! What must hold of the state that workers share, in every order of events.

mod breaker;
mod bulkhead;
mod counts;
