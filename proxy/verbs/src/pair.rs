//! Queue pairs: requests go in here.

use std::net::Ipv6Addr;
use std::ops::Range;
use std::ptr::{NonNull, null_mut};

use ibverbs_sys as ffi;
use ibverbs_sys::{
    ibv_access_flags, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_state, ibv_qp_type, ibv_send_flags,
    ibv_wr_opcode,
};
use libc::c_int;

use crate::context::PORT;
use crate::{CompletionQueue, Domain, Error, Gid, Region};

/// A reliable connection to one queue pair of a peer.
pub struct QueuePair {
    handle: NonNull<ibv_qp>,
    /// Keeps the domain until the pair is gone.
    _domain: Domain,
    /// As many bytes go along with a request, so that the device need not fetch them.
    inline: usize,
    /// Keeps the queue until the pair is gone.
    _completions: CompletionQueue,
}

/// How many requests may be under way.
#[derive(Debug, Clone, Copy)]
pub struct Requests {
    /// Writes and sends.
    pub send: u32,
    /// Requests to receive.
    pub receive: u32,
}

/// One end of a connection, as the other one must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The queue pair's number.
    pub pair: u32,
    /// The number of its first packet, 24 bits, not to be guessed.
    pub first_packet: u32,
    /// The device's address.
    pub address: Ipv6Addr,
}

/// What a connection goes over.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// Our address.
    pub from: Gid,
    /// The number of our first packet.
    pub first_packet: u32,
    /// The other end.
    pub to: Endpoint,
    /// Most bytes of a packet, as the header writes it: what both ends can.
    pub mtu: u32,
}

/// A place in a peer's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Where.
    pub address: u64,
    /// The region's key.
    pub key: u32,
}

impl Remote {
    /// The place so many bytes behind it.
    pub fn at(self, bytes: usize) -> Self {
        Remote { address: self.address + bytes as u64, ..self }
    }
}

/// One write into a peer's memory, told by a number.
#[derive(Clone)]
pub struct Write<'a> {
    /// What its completion is called.
    pub id: u64,
    /// What is written: this part
    pub part: Range<usize>,
    /// of this region. It must not change until a completion covers it.
    pub region: &'a Region,
    /// Where to.
    pub to: Remote,
    /// The number, which takes one of the peer's requests to receive.
    pub immediate: u32,
    /// Whether it completes by itself. One that does not is covered by the completion of a later one, unless it fails.
    pub signalled: bool,
}

impl QueuePair {
    /// Makes one that is not connected.
    ///
    /// # Errors
    /// The device has no more, or none for so many requests.
    pub fn new(domain: &Domain, completions: &CompletionQueue, requests: Requests) -> Result<Self, Error> {
        let make = |inline| {
            let mut attributes = ffi::ibv_qp_init_attr {
                qp_context: null_mut(),
                send_cq: completions.handle().as_ptr(),
                recv_cq: completions.handle().as_ptr(),
                srq: null_mut(),
                cap: ffi::ibv_qp_cap {
                    max_send_wr: requests.send,
                    max_recv_wr: requests.receive,
                    max_send_sge: 1,
                    max_recv_sge: 1,
                    max_inline_data: inline,
                },
                qp_type: ibv_qp_type::IBV_QPT_RC,
                sq_sig_all: 0,
            };
            // SAFETY: domain and queue are valid, and kept by what is made here.
            NonNull::new(unsafe { ffi::ibv_create_qp(domain.handle().as_ptr(), &mut attributes) })
        };
        // Not all devices take bytes along.
        let made = make(INLINE).map(|handle| (handle, INLINE)).or_else(|| Some((make(0)?, 0)));
        let (handle, inline) = made.ok_or_else(|| Error::last("ibv_create_qp"))?;
        Ok(QueuePair {
            handle,
            _domain: domain.clone(),
            inline: inline as usize,
            _completions: completions.clone(),
        })
    }

    /// Its number.
    pub fn number(&self) -> u32 {
        // SAFETY: the handle is valid.
        unsafe { self.handle.as_ref() }.qp_num
    }

    /// Connects it. The peer connects its own; until it has, what is sent is repeated. That a path is dead is known within
    /// two seconds.
    ///
    /// # Errors
    /// There is no way to the peer, or the port is down.
    pub fn connect(&mut self, path: &Path) -> Result<(), Error> {
        self.modify(
            ibv_qp_attr {
                qp_state: ibv_qp_state::IBV_QPS_INIT,
                port_num: PORT,
                qp_access_flags: ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
                ..Default::default()
            },
            ibv_qp_attr_mask::IBV_QP_PKEY_INDEX
                | ibv_qp_attr_mask::IBV_QP_PORT
                | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS,
        )?;
        let route = ffi::ibv_global_route {
            dgid: ffi::ibv_gid { raw: path.to.address.octets() },
            sgid_index: path.from.index,
            hop_limit: HOPS,
            ..Default::default()
        };
        self.modify(
            ibv_qp_attr {
                qp_state: ibv_qp_state::IBV_QPS_RTR,
                path_mtu: path.mtu,
                rq_psn: path.to.first_packet,
                dest_qp_num: path.to.pair,
                ah_attr: ffi::ibv_ah_attr { grh: route, is_global: 1, port_num: PORT, ..Default::default() },
                min_rnr_timer: RECEIVER_WAIT,
                ..Default::default()
            },
            ibv_qp_attr_mask::IBV_QP_AV
                | ibv_qp_attr_mask::IBV_QP_PATH_MTU
                | ibv_qp_attr_mask::IBV_QP_DEST_QPN
                | ibv_qp_attr_mask::IBV_QP_RQ_PSN
                | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC
                | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER,
        )?;
        self.modify(
            ibv_qp_attr {
                qp_state: ibv_qp_state::IBV_QPS_RTS,
                sq_psn: path.first_packet,
                timeout: TIMEOUT,
                retry_cnt: RETRIES,
                rnr_retry: RECEIVER_RETRIES,
                ..Default::default()
            },
            ibv_qp_attr_mask::IBV_QP_SQ_PSN
                | ibv_qp_attr_mask::IBV_QP_TIMEOUT
                | ibv_qp_attr_mask::IBV_QP_RETRY_CNT
                | ibv_qp_attr_mask::IBV_QP_RNR_RETRY
                | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC,
        )
    }

    /// Lets what is under way end, and begins nothing new. The device says when with an event.
    ///
    /// # Errors
    /// It is not connected.
    pub fn drain(&self) -> Result<(), Error> {
        self.modify(
            ibv_qp_attr { qp_state: ibv_qp_state::IBV_QPS_SQD, en_sqd_async_notify: 1, ..Default::default() },
            ibv_qp_attr_mask::IBV_QP_EN_SQD_ASYNC_NOTIFY,
        )
    }

    /// Ends it: nothing is sent or received any more, and every request completes as flushed.
    ///
    /// # Errors
    /// The device is gone.
    pub fn fail(&self) -> Result<(), Error> {
        let attributes = ibv_qp_attr { qp_state: ibv_qp_state::IBV_QPS_ERR, ..Default::default() };
        self.modify(attributes, ibv_qp_attr_mask::IBV_QP_STATE)
    }

    /// Posts writes, in this order and as few calls of the device's driver as can be.
    ///
    /// # Errors
    /// Too many requests are under way. In error a queue pair takes requests none the less: only their completions say so.
    ///
    /// # Panics
    /// A part does not lie in its region.
    pub fn write(&self, writes: &[Write<'_>]) -> Result<(), Error> {
        for batch in writes.chunks(BATCH) {
            let mut elements = [ffi::ibv_sge::default(); BATCH];
            let mut requests = [ffi::ibv_send_wr::default(); BATCH];
            for (at, write) in batch.iter().enumerate() {
                elements[at] = write.region.element(&write.part);
                let inline = !write.part.is_empty() && write.part.len() <= self.inline;
                let flag = |set: bool, flag: ibv_send_flags| if set { flag.0 } else { 0 };
                requests[at] = ffi::ibv_send_wr {
                    wr_id: write.id,
                    num_sge: i32::from(!write.part.is_empty()),
                    opcode: ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
                    send_flags: flag(write.signalled, ibv_send_flags::IBV_SEND_SIGNALED)
                        | flag(inline, ibv_send_flags::IBV_SEND_INLINE),
                    __bindgen_anon_1: ffi::ibv_send_wr_immediate { imm_data: write.immediate.to_be() },
                    wr: ffi::ibv_send_wr_target {
                        rdma: ffi::ibv_send_wr_rdma { remote_addr: write.to.address, rkey: write.to.key },
                    },
                    ..Default::default()
                };
            }
            for (at, element) in elements.iter_mut().enumerate().take(batch.len()) {
                requests[at].sg_list = element;
            }
            for at in 1..batch.len() {
                requests[at - 1].next = &mut requests[at];
            }
            // SAFETY: the list ends behind the batch.
            unsafe { self.post("ibv_post_send", self.operations().post_send, &mut requests) }?;
        }
        Ok(())
    }

    /// Takes the next `number` numbers that the peer tells with writes. Each completes as `id`.
    ///
    /// # Errors
    /// Too many requests are under way.
    pub fn receive(&self, id: u64, number: usize) -> Result<(), Error> {
        let mut left = number;
        while left > 0 {
            let many = left.min(BATCH);
            let mut requests: [ffi::ibv_recv_wr; BATCH] = std::array::from_fn(|_| ffi::ibv_recv_wr {
                wr_id: id,
                next: null_mut(),
                sg_list: null_mut(),
                num_sge: 0,
            });
            for at in 1..many {
                requests[at - 1].next = &mut requests[at];
            }
            // SAFETY: the list ends behind the last of them.
            unsafe { self.post("ibv_post_recv", self.operations().post_recv, &mut requests) }?;
            left -= many;
        }
        Ok(())
    }

    /// Posts a list of requests by one call of the device's driver.
    ///
    /// # Safety
    /// The list that begins with the first of `requests` ends, and all of it and what it names is there.
    unsafe fn post<R>(
        &self,
        verb: &'static str,
        post: Option<unsafe extern "C" fn(*mut ibv_qp, *mut R, *mut *mut R) -> c_int>,
        requests: &mut [R],
    ) -> Result<(), Error> {
        let mut refused = null_mut();
        let number = match post {
            // SAFETY: the pair is valid, the caller vouches for the list, and the library keeps nothing of it.
            Some(post) => unsafe { post(self.handle.as_ptr(), requests.as_mut_ptr(), &mut refused) },
            None => libc::ENOSYS,
        };
        Error::check(verb, number)
    }

    /// Changes the state and what else `mask` names.
    fn modify(&self, mut attributes: ibv_qp_attr, mask: ibv_qp_attr_mask) -> Result<(), Error> {
        let mask = mask | ibv_qp_attr_mask::IBV_QP_STATE;
        // SAFETY: the pair is valid, and the library does not keep the attributes.
        let number =
            unsafe { ffi::ibv_modify_qp(self.handle.as_ptr(), &mut attributes, mask.0.cast_signed()) };
        Error::check("ibv_modify_qp", number)
    }

    fn operations(&self) -> &ffi::ibv_context_ops {
        // SAFETY: the pair is valid, and so is the context that it was made of.
        unsafe { &(*self.handle.as_ref().context).ops }
    }
}

// SAFETY: libibverbs may be called from all threads with the same handle.
unsafe impl Send for QueuePair {}
// SAFETY: as above.
unsafe impl Sync for QueuePair {}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: the handle is valid and used no more.
        unsafe { ffi::ibv_destroy_qp(self.handle.as_ptr()) };
    }
}

/// A packet that nobody acknowledges is sent again after 4.096 µs · 2^14, about 67 ms. 0 would be for ever.
const TIMEOUT: u8 = 14;

/// So often: with what devices add, that stays below two seconds. rxe on Linux 6.1 takes 7 for no limit.
const RETRIES: u8 = 6;

/// How long a sender waits when the peer has no request to receive: 20.48 ms in the specification's table.
const RECEIVER_WAIT: u8 = 22;

/// How often it tries again. 7 would be for ever.
const RECEIVER_RETRIES: u8 = 6;

/// Bytes that a request takes along: most of a link's small records.
const INLINE: u32 = 256;

/// Requests that are posted by one call.
const BATCH: usize = 8;

/// As many routers as there may be.
const HOPS: u8 = 64;
