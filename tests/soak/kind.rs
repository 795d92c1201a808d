//! The kinds of callers. Each has a Service of its own, so that the books of each can be compared.

/// What a caller is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Requests on a connection that stays open.
    Http1,
    /// Streams at once.
    Http2,
    /// gRPC calls.
    Grpc,
    /// Leaves when its request has arrived: by closing its connection.
    Leaves1,
    /// The same, by a reset of its stream.
    Leaves2,
    /// Sends its body slowly.
    Uploads,
    /// Sends large bodies in chunks, to a callee that often answers 503 at the head and reads on.
    Chunks,
    /// Reads a large answer slowly, or stops in the middle of it.
    Reads1,
    /// The same on HTTP/2.
    Reads2,
    /// Asks for heads alone.
    Heads,
    /// Sends trailers, and gets them back.
    Trailers,
    /// Sends requests before the answers to those ahead of them.
    Pipelines,
    /// Speaks HTTP/1.0.
    Old,
    /// Sends its body once it was told to go on.
    Expects,
    /// Changes the protocol, and says something in the other.
    Upgrades,
    /// Calls a Service that leaves the config and comes back.
    Visits,
    /// TCP that nobody looks into.
    Opaque,
    /// Sends what is no HTTP.
    Garbage,
}

/// What a caller does besides sending and reading.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Nothing.
    Plain,
    /// It leaves once its request has arrived.
    Leave,
    /// It sends slowly.
    SendSlowly,
    /// It sends much.
    SendMuch,
    /// It reads slowly, or leaves in the middle.
    ReadSlowly,
}

impl Kind {
    pub(crate) const ALL: [Self; 18] = [
        Self::Http1,
        Self::Http2,
        Self::Grpc,
        Self::Leaves1,
        Self::Leaves2,
        Self::Uploads,
        Self::Chunks,
        Self::Reads1,
        Self::Reads2,
        Self::Heads,
        Self::Trailers,
        Self::Pipelines,
        Self::Old,
        Self::Expects,
        Self::Upgrades,
        Self::Visits,
        Self::Opaque,
        Self::Garbage,
    ];

    /// Also that of its Service.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Leaves1 => "leaves1",
            Self::Leaves2 => "leaves2",
            Self::Uploads => "uploads",
            Self::Chunks => "chunks",
            Self::Reads1 => "reads1",
            Self::Reads2 => "reads2",
            Self::Heads => "heads",
            Self::Trailers => "trailers",
            Self::Pipelines => "pipelines",
            Self::Old => "old",
            Self::Expects => "expects",
            Self::Upgrades => "upgrades",
            Self::Visits => "visits",
            Self::Opaque => "opaque",
            Self::Garbage => "garbage",
        }
    }

    /// How many there are at once.
    pub(crate) fn callers(self) -> usize {
        match self {
            Self::Http1 => 8,
            Self::Opaque | Self::Leaves1 => 6,
            Self::Garbage | Self::Visits => 1,
            Self::Heads | Self::Old | Self::Pipelines | Self::Expects | Self::Upgrades => 2,
            _ => 3,
        }
    }

    /// What they do besides sending and reading.
    pub(crate) fn conduct(self) -> Conduct {
        match self {
            Self::Leaves1 | Self::Leaves2 => Conduct::Leave,
            Self::Uploads => Conduct::SendSlowly,
            Self::Chunks => Conduct::SendMuch,
            Self::Reads1 | Self::Reads2 => Conduct::ReadSlowly,
            _ => Conduct::Plain,
        }
    }

    /// How many of a hundred requests must have had their right answer over the whole run: at most half of the least that was
    /// measured. Most of the time nearly everything is wrong with the world.
    pub(crate) fn least_right(self) -> u64 {
        match self {
            Self::Garbage => 90,
            Self::Http2 | Self::Grpc | Self::Leaves2 | Self::Chunks | Self::Pipelines | Self::Visits => 10,
            _ => 15,
        }
    }

    /// Whether they send several requests at once on a connection: HTTP/2.
    pub(crate) fn multiplexes(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::Leaves2 | Self::Reads2)
    }
}
