/* SPDX-License-Identifier: ((GPL-2.0 WITH Linux-syscall-note) OR BSD-3-Clause) */
/*
 * The ioctls of /dev/devmem_binding and of the handles it makes (devmem_binding(4)).
 *
 * Every request has room for words: @message points to @message_size bytes (DEVMEM_BINDING_MESSAGE_MAX is enough), which
 * take what the kernel has to say about a refusal as a string; "" on success. Fields named reserved are 0.
 */
#ifndef _UAPI_LINUX_DEVMEM_BINDING_IOCTL_H
#define _UAPI_LINUX_DEVMEM_BINDING_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

#include "devmem_binding.h"

/**
 * struct devmem_binding_create - binds a dma-buf to Rx queues
 * @ifindex: the network device, in the caller's network namespace
 * @dmabuf_fd: the dma-buf, among the caller's file descriptors
 * @rx_page_size: bytes of a receive buffer, a power of two; 0: the system's page
 * @reset: enum devmem_binding_reset: what goes back to its default when the last holder is gone
 * @queues: points to @queue_count numbers (__u32) of queues, each once
 * @queue_count: 1 to DEVMEM_BINDING_QUEUES_MAX
 * @split_before: ETHTOOL_TCP_DATA_SPLIT_* as it was read before the caller turned it on; with DEVMEM_BINDING_RESET_SPLIT, what
 *	is written where the reset does not lead there. ETHTOOL_TCP_DATA_SPLIT_ENABLED: it was on, and stays on
 * @threshold_before: hds-thresh as it was before; 0: it was 0, or the kernel has none
 * @message_size: bytes at @message
 * @message: see above
 * @id: out: the binding's number
 * @fd: out: the handle, closed on exec
 * @dmabuf_id: out: the dma-buf's number, as in struct dmabuf_cmsg
 */
struct devmem_binding_create {
	__u32 ifindex;
	__s32 dmabuf_fd;
	__u32 rx_page_size;
	__u32 reset;
	__aligned_u64 queues;
	__u32 queue_count;
	__u32 split_before;
	__u32 threshold_before;
	__u32 message_size;
	__aligned_u64 message;
	__u32 id;
	__s32 fd;
	__u32 dmabuf_id;
	__u32 reserved;
};

/**
 * struct devmem_binding_flow - packets of one flow; what is 0 matches any, not everything may be 0
 * @family: AF_INET or AF_INET6
 * @protocol: IPPROTO_TCP or IPPROTO_UDP
 * @src_port: of the sender
 * @dst_port: of the receiver
 * @src: the sender's address, an IPv4 address in the first 4 bytes
 * @dst: the receiver's
 */
struct devmem_binding_flow {
	__u16 family;
	__u8 protocol;
	__u8 reserved;
	__be16 src_port;
	__be16 dst_port;
	__u8 src[16];
	__u8 dst[16];
};

/**
 * struct devmem_binding_rule - a steering rule (ntuple)
 * @location: where the NIC has it
 * @queue: where it leads
 * @flow: what it matches
 */
struct devmem_binding_rule {
	__u32 location;
	__u32 queue;
	struct devmem_binding_flow flow;
};

/**
 * struct devmem_binding_rule_change - adds or deletes a rule of the handle's
 * @rule: to add: queue and flow, location is told; to delete: location alone counts
 * @message_size: bytes at @message
 * @message: see above
 */
struct devmem_binding_rule_change {
	struct devmem_binding_rule rule;
	__u32 message_size;
	__u32 reserved;
	__aligned_u64 message;
};

/**
 * struct devmem_binding_info - everything a process needs to go on with a handle that it was given
 * @id: the binding's number
 * @ifindex: the network device, in the network namespace of @netns_cookie
 * @dmabuf_id: the dma-buf's number, as in struct dmabuf_cmsg
 * @rx_page_size: bytes of a receive buffer
 * @state: enum devmem_binding_state
 * @reset: as at creation, and what was handed over since by other bindings of the device
 * @split_before: as at creation, or as handed over
 * @threshold_before: likewise
 * @netns_cookie: of the network namespace, as SO_NETNS_COOKIE tells a socket's
 * @queues: room for @queue_count numbers (__u32); may be 0 with a count of 0
 * @rules: room for @rule_count of struct devmem_binding_rule; may be 0 with a count of 0
 * @queue_count: in: room; out: how many there are. What has no room is not told
 * @rule_count: likewise
 */
struct devmem_binding_info {
	__u32 id;
	__u32 ifindex;
	__u32 dmabuf_id;
	__u32 rx_page_size;
	__u32 state;
	__u32 reset;
	__u32 split_before;
	__u32 threshold_before;
	__aligned_u64 netns_cookie;
	__aligned_u64 queues;
	__aligned_u64 rules;
	__u32 queue_count;
	__u32 rule_count;
};

/* 0xdb: not taken in Documentation/userspace-api/ioctl/ioctl-number.rst of 7.3. */
#define DEVMEM_BINDING_IOC_CREATE	_IOWR(0xdb, 0x01, struct devmem_binding_create)	/* on the device */
#define DEVMEM_BINDING_IOC_RULE_ADD	_IOWR(0xdb, 0x02, struct devmem_binding_rule_change)	/* on a handle, as below */
#define DEVMEM_BINDING_IOC_RULE_DEL	_IOWR(0xdb, 0x03, struct devmem_binding_rule_change)
#define DEVMEM_BINDING_IOC_INFO		_IOWR(0xdb, 0x04, struct devmem_binding_info)

#endif
