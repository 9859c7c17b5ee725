//! Queue pairs: requests go in here.

use std::net::Ipv6Addr;
use std::ops::Range;
use std::ptr::{NonNull, null_mut};

use ibverbs_sys as ffi;
use ibverbs_sys::{
    ibv_access_flags, ibv_qp, ibv_qp_attr, ibv_qp_attr_mask, ibv_qp_state, ibv_qp_type, ibv_send_flags,
    ibv_wr_opcode,
};

use crate::context::PORT;
use crate::{CompletionQueue, Domain, Error, Gid, Region};

/// A reliable connection to one queue pair of a peer.
pub struct QueuePair {
    handle: NonNull<ibv_qp>,
    domain: Domain,
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
}

/// A place in a peer's memory.
#[derive(Debug, Clone, Copy)]
pub struct Remote {
    /// Where.
    pub address: u64,
    /// The region's key.
    pub key: u32,
}

impl QueuePair {
    /// Makes one that is not connected.
    ///
    /// # Errors
    /// The device has no more, or none for so many requests.
    pub fn new(domain: &Domain, completions: &CompletionQueue, requests: Requests) -> Result<Self, Error> {
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
                max_inline_data: 0,
            },
            qp_type: ibv_qp_type::IBV_QPT_RC,
            sq_sig_all: 0,
        };
        // SAFETY: domain and queue are valid, and kept by what is made here.
        let handle = unsafe { ffi::ibv_create_qp(domain.handle().as_ptr(), &mut attributes) };
        let handle = NonNull::new(handle).ok_or_else(|| Error::last("ibv_create_qp"))?;
        Ok(QueuePair { handle, domain: domain.clone(), _completions: completions.clone() })
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
        let mtu = self.domain.context().port()?.active_mtu;
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
                path_mtu: mtu,
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

    /// Writes a part of a region into the peer's memory, and tells it by a number that takes one of its requests to
    /// receive. The part must not change until the completion says so.
    ///
    /// # Errors
    /// Too many requests are under way. In error a queue pair takes requests none the less: only their completions say so.
    ///
    /// # Panics
    /// The part does not lie in the region.
    pub fn write(
        &self,
        id: u64,
        region: &Region,
        part: Range<usize>,
        to: Remote,
        immediate: u32,
    ) -> Result<(), Error> {
        let mut element = region.element(&part);
        let mut request = ffi::ibv_send_wr {
            wr_id: id,
            sg_list: &mut element,
            num_sge: 1,
            opcode: ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM,
            send_flags: ibv_send_flags::IBV_SEND_SIGNALED.0,
            __bindgen_anon_1: ffi::ibv_send_wr_immediate { imm_data: immediate.to_be() },
            wr: ffi::ibv_send_wr_target {
                rdma: ffi::ibv_send_wr_rdma { remote_addr: to.address, rkey: to.key },
            },
            ..Default::default()
        };
        let mut refused = null_mut();
        let number = match self.operations().post_send {
            // SAFETY: the pair is valid, and the library keeps neither the request nor its list.
            Some(post) => unsafe { post(self.handle.as_ptr(), &mut request, &mut refused) },
            None => libc::ENOSYS,
        };
        Error::check("ibv_post_send", number)
    }

    /// Takes the next number that the peer tells with a write.
    ///
    /// # Errors
    /// Too many requests are under way.
    pub fn receive(&self, id: u64) -> Result<(), Error> {
        let mut request = ffi::ibv_recv_wr { wr_id: id, next: null_mut(), sg_list: null_mut(), num_sge: 0 };
        let mut refused = null_mut();
        let number = match self.operations().post_recv {
            // SAFETY: the pair is valid, and the library does not keep the request.
            Some(post) => unsafe { post(self.handle.as_ptr(), &mut request, &mut refused) },
            None => libc::ENOSYS,
        };
        Error::check("ibv_post_recv", number)
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

/// As many routers as there may be.
const HOPS: u8 = 64;
