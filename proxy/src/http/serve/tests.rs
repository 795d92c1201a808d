//! How large the futures are that a connection and a request are made of. Each is memory that is taken and written for every one of
//! them, and a variable that lives across one more `await` can double it without anyone seeing it.

use std::mem::size_of;

use super::*;

/// The size of the future that a function of two returns. It is not called: what it takes needs not be there.
fn of_two<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
    size_of::<F>()
}

fn of_three<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}

#[test]
fn the_main_futures_stay_small() {
    // What each takes now and a few fields more. In the first lie a request's head and one exchange with a callee: with a second
    // of either it is too large. It is part of the third, that of a
    // connection that is not at rest. The others are what 10,000 connections hold, the second and none of those below it at rest.
    let futures = [
        ("handle, of each request", of_three(pipeline::handle), 9088),
        ("connection, of each from a caller", of_three(connection), 1088),
        ("http1, of each that is not at rest", of_two(http1), 11_392),
        ("http2, of each", of_two(http2), 2112),
    ];
    let too_large: Vec<_> = futures.iter().filter(|(_, size, bound)| size > bound).collect();
    assert!(too_large.is_empty(), "bytes, and the bound: {too_large:?}");
}
