"""The scenarios, in the order in which they are run. Each is a function of a Bench that returns a Report."""

from scenarios import bodies, duty, http, latency, memory, reload, start, syscalls, work, workers

SCENARIOS = {
    "duty": duty.run,
    "http1": http.http1,
    "http2": http.http2,
    "bodies": bodies.run,
    "latency": latency.run,
    "memory": memory.run,
    "reload": reload.run,
    "start": start.run,
    "workers": workers.run,
    "syscalls": syscalls.run,
    "work": work.run,
}
