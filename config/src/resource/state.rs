//! What a Service keeps between requests.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Duration;

/// What a Service keeps between requests. One of its instances serves at a time, and a Migration moves the state to another.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StateSpec {
    /// What becomes of the state when the instance that has it dies.
    pub class: StateClass,
    /// Of `journaled`: what becomes of requests while no other instance can keep the journal. Default `refuse`.
    #[serde(default)]
    pub when_alone: Option<WhenAlone>,
    /// The port of the Service at which the application gives and takes its state, in HTTP/1.1 or as Redis. Default: the first one.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// The path of a GET that is answered by 200 and all of the state. It takes `restore` as well, and neither `function` nor `redis`.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// The path of a PUT whose body takes the place of all of the state.
    #[serde(default)]
    pub restore: Option<String>,
    /// The path of a GET, asked with `?since=VERSION`, that is answered by 200 and what has changed since, in whatever form a PATCH
    /// at `restore` takes; or by 410, where that is not known any more, and all of the state is asked for once more. With it most
    /// of the state is copied while the service serves, in rounds. The answers of both `snapshot` and this one have a field
    /// `x-lighter-state-version`, which names what they are to be followed from. Default: all of the state is copied while nobody
    /// serves.
    #[serde(default)]
    pub changes: Option<String>,
    /// The function whose keys and values are the state, where the instances are devices: a component, of which each has the
    /// same. It stands in the place of all paths.
    #[serde(default)]
    pub function: Option<String>,
    /// The application is Redis, whose state moves as from a master to a replica. It stands in the place of all
    /// paths.
    #[serde(default)]
    pub redis: Option<RedisSpec>,
    /// The path of a POST after which nothing changes the state but requests. It takes `thaw` as well. Default: nothing does
    /// anyway.
    #[serde(default)]
    pub freeze: Option<String>,
    /// The path of a POST that ends what `freeze` began.
    #[serde(default)]
    pub thaw: Option<String>,
    /// How long the application may take for each, from 1ms to 24h. Default 10s.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// No state is longer than so many bytes, which both sidecars keep in memory. Up to 16 GiB. Default 268435456, which is
    /// 256 MiB.
    #[serde(default)]
    #[schemars(range(min = 1, max = 17_179_869_184u64))]
    pub max_bytes: Option<u64>,
    /// How much may wait while the state moves.
    #[serde(default)]
    pub park: Option<ParkSpec>,
    /// What becomes of calls of gRPC and of upgraded and opaque connections that have not ended within `quiesceTimeout` of a
    /// Migration. Default `wait`.
    #[serde(default)]
    pub streams: Streams,
    /// What becomes of the state when the instance that has it is to drain. Default `move`.
    #[serde(default)]
    pub on_drain: OnDrain,
    /// Whether it moves by itself to where it is served better. Default: it moves as somebody asks.
    #[serde(default, rename = "move")]
    pub moves: Option<MoveSpec>,
}

/// When the state of a Service moves, beside before a drain.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MoveSpec {
    /// Who asks for it.
    pub when: MoveWhen,
    /// Of `gain`: what callers wait less counts for so long, from 1ms to 24h. Default 10m.
    #[serde(default)]
    pub horizon: Option<Duration>,
    /// Of `gain`: by how much that has to be more than what the move costs, in percent of the cost. Up to 1000. Default 50.
    #[serde(default)]
    #[schemars(range(max = 1000))]
    pub margin_percent: Option<u32>,
    /// Of `gain`: so long the state stays where it has come, and so long another instance has to be the better one, from 1ms
    /// to 24h. Default 30s.
    #[serde(default)]
    pub settle: Option<Duration>,
}

/// Who asks for the state of a Service to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum MoveWhen {
    /// People, by a Migration.
    Asked,
    /// The control plane as well, where another instance would serve it better.
    Gain,
}

/// What becomes of streams that have not ended in time when the state is to move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Streams {
    /// The state does not move.
    #[default]
    Wait,
    /// They are cut, and what they were doing may have been done.
    Cut,
}

/// What becomes of the state when the instance that has it is to drain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum OnDrain {
    /// It moves to another instance first, where one can take it.
    #[default]
    Move,
    /// It is lost with the instance, unless somebody moves it.
    Stay,
}

/// What becomes of the state when the instance that has it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum StateClass {
    /// It is in memory: it is lost, and that is said.
    Volatile,
    /// What was acknowledged another instance's sidecar has as well: where the one that serves dies, that one serves. It takes
    /// `changes`, and ports whose `appProtocol` is `http` or `http2`.
    Journaled,
}

/// What becomes of requests to a Service whose state is journaled while no other instance can keep the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum WhenAlone {
    /// They are not executed.
    Refuse,
    /// They are answered, and what they change is lost where the instance dies.
    Serve,
}

/// How Redis gives its state and takes it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RedisSpec {}

/// How many requests may wait for the place to which a Service moves. What is more is refused as not executed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParkSpec {
    /// So many. Default 1024.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: Option<u32>,
    /// What they take of memory, in bytes, up to 16 GiB. Default 16777216.
    #[serde(default)]
    #[schemars(range(min = 1, max = 17_179_869_184u64))]
    pub bytes: Option<u64>,
    /// How long one waits, from 1ms to 24h. Default 15s.
    #[serde(default)]
    pub wait: Option<Duration>,
}
