/* SPDX-License-Identifier: GPL-2.0 */
/*
 * devmemsim: pairs of back-to-back software NICs whose receive path can land payload in device memory.
 * ../README.md follows a packet through these files. What each declares below, it also documents there.
 */
#ifndef DEVMEMSIM_H
#define DEVMEMSIM_H

#include <linux/ethtool.h>
#include <linux/ethtool_netlink.h>
#include <linux/netdevice.h>
#include <linux/skbuff.h>
#include <linux/u64_stats_sync.h>
#include <net/flow_dissector.h>
#include <net/page_pool/types.h>

#include "compat.h"

#define DMS_NAME		"devmemsim"
#define DMS_MAX_QUEUES		128
#define DMS_MAX_PAIRS		16
#define DMS_MIN_RING		16
#define DMS_MAX_RING		8192
#define DMS_DEFAULT_RING	256
#define DMS_MAX_MTU		9000
#define DMS_MAX_RX_PAGE		SZ_2M
#define DMS_MAX_HDS_THRESH	1024
#define DMS_DEFAULT_TX_RING	1024

struct dms_port;
struct dms_pair;
struct dms_steer;
struct dms_gro;

/* --- personality.c: what real drivers do differently ---------------------------------------------------- */

enum dms_locations {
	DMS_LOC_BOTH,		/* explicit ntuple locations, and RX_CLS_LOC_ANY */
	DMS_LOC_ANY_ONLY,	/* bnxt, fbnic: the NIC chooses */
	DMS_LOC_EXPLICIT_ONLY,	/* mlx5: RX_CLS_LOC_ANY is refused */
};

struct dms_personality {
	const char *name;
	unsigned int max_rules;		/* ntuple rules; also the explicit locations [0, max_rules) */
	enum dms_locations locations;
	bool silent_replace;		/* mlx5: a rule at an occupied location takes its place */
	bool refuses_duplicates;	/* bnxt: a rule that matches what another does is -EEXIST */
	bool ntuple_gates_rules;	/* bnxt, gve: rules need the ntuple feature */
	bool ntuple_off_flushes;	/* gve: turning it off forgets the rules */
	bool split_wants_gro_hw;	/* mlx5: rx-gro-hw before tcp-data-split */
	bool split_refuses_off;		/* bnxt: "off" is refused, and it reads "on" while unset */
	bool split_wants_up;		/* mlx5: only while the link is up */
	bool restart_stops_all;		/* mlx5, gve: restarting one queue pauses every queue */
	bool reset_renews_napi;		/* gve: NAPI ids change at a reset */
	int unbind_down_errno;		/* mlx5 -ENODEV, gve -EAGAIN: restarting a queue while down */
	unsigned int first_bindable;	/* gve: queue 0 never takes device memory */
	unsigned int max_rx_page;	/* 0: rx-page-size is not supported */
};

const struct dms_personality *dms_personality_find(const char *name);
extern const char dms_personality_names[];

/* --- faults.c: debugfs knobs ----------------------------------------------------------------------------- */

enum dms_fault {
	DMS_FAULT_DROP,		/* the frame is lost on the wire */
	DMS_FAULT_REORDER,	/* the frame arrives after the next one */
	DMS_FAULT_DUPLICATE,	/* the frame arrives twice */
	DMS_FAULT_CORRUPT,	/* one payload byte is flipped before the checksum is verified */
	DMS_FAULT_DELAY,	/* the frame arrives delay_us later; others pass it */
	DMS_FAULT_ALLOC,	/* posting a buffer to the fill ring fails */
	DMS_FAULT_LINEAR,	/* no header split: the whole frame is delivered in host memory */
	DMS_FAULT_SPLIT_LATE,	/* the header split comes up to 64 bytes late: payload begins in host memory */
	DMS_FAULT_MISROUTE,	/* the frame goes to queue misroute_to */
	DMS_FAULT_DMA_LOSE,	/* the payload's DMA write vanishes after the checksum was verified */
	DMS_FAULT_DMA_MISPLACE,	/* that write lands in the next posted buffer instead */
	DMS_FAULT_COUNT
};

/*
 * Each fault applies to the next `left` frames that carry TCP or UDP payload, after `skip` of them have passed (ALLOC:
 * to the next `left` allocations). Counts, not chances: a test knows what it gets.
 */
struct dms_faults {
	atomic_t left[DMS_FAULT_COUNT];
	atomic_t skip[DMS_FAULT_COUNT];
	u32 delay_us;
	u32 misroute_to;
};

bool __dms_fault(struct dms_faults *faults, enum dms_fault which);
/* Whether this frame is struck; counts down. Any context. */
static inline bool dms_fault(struct dms_faults *faults, enum dms_fault which)
{
	return unlikely(atomic_read(&faults->left[which]) > 0) && __dms_fault(faults, which);
}

void dms_faults_init(void);
void dms_faults_exit(void);
struct dentry *dms_faults_root(void);
void dms_faults_add_port(struct dms_port *port);
void dms_faults_remove_port(struct dms_port *port);

/* --- queues --------------------------------------------------------------------------------------------- */

struct dms_rx_stats {
	u64 packets, bytes;
	u64 alloc_fail;
	u64 drops;		/* hw_drops: whatever the NIC did not deliver */
	u64 overruns;		/* hw_drop_overruns: of those, for want of posted buffers */
	u64 csum_unnecessary, csum_complete, csum_none, csum_bad;
	u64 gro_packets, gro_bytes, gro_wire_packets, gro_wire_bytes;
	u64 split;		/* frames whose header and payload were split */
	u64 dma_faults;		/* DMA addresses with no memory behind them */
};

struct dms_tx_stats {
	u64 packets, bytes;
	u64 errors;
	u64 csum_none, needs_csum;
	u64 gso_packets, gso_bytes, gso_wire_packets, gso_wire_bytes;
	u64 stop;
};

/* What the NIC places payload with: this, and nothing else, is swapped when a queue restarts. */
struct dms_rx_mem {
	struct page_pool *pool;
	netmem_ref *ring;		/* posted buffers [tail, head), indices modulo size */
	u32 size;			/* power of two */
	u32 head, tail;
	u32 buffer_size;		/* bytes of one buffer: rx-page-size */
	u32 offset;			/* how far ring[tail] is filled */
	u32 users;			/* fragments handed out of ring[tail] */
	u32 hds_thresh;			/* payload up to this stays with the header */
	bool split;			/* header split */
};

struct dms_rxq {
	struct dms_port *port;
	u16 index;
	bool running;			/* NAPI enabled, mem valid. Under the port's lock. */
	/*
	 * The queue's interrupt is not masked: a frame schedules the NAPI, which masks it until it has completed. Without
	 * the mask, napi_defer_hard_irqs and busy polling would change nothing.
	 */
	u32 armed;
	struct hrtimer moderation;	/* the interrupt, held back by rx-usecs */
	struct napi_struct napi;
	struct dms_rx_mem mem;		/* NAPI only, while running */
	struct sk_buff_head inbound;	/* frames on the wire to this queue */
	struct sk_buff_head delayed;	/* frames held back by DMS_FAULT_DELAY */
	struct timer_list delay_timer;
	struct sk_buff_head held;	/* at most one frame, by DMS_FAULT_REORDER */
	struct dms_gro *gro;
	struct dms_faults faults;
	struct u64_stats_sync sync;
	struct dms_rx_stats stats;	/* written by NAPI (and queue restart, with NAPI off) */
};

struct dms_txq {
	struct dms_port *port;
	u16 index;
	atomic_t in_flight;		/* frames on the wire, or queued at the peer */
	struct u64_stats_sync sync;
	struct dms_tx_stats stats;	/* written under the Tx queue's lock */
	atomic64_t wakes;		/* by the peer's NAPIs */
};

/* Settings that a queue's memory depends upon; changed by ethtool, under the port's lock. */
struct dms_rx_config {
	u32 ring;			/* of 4 KiB buffers; larger ones are posted in proportion, see dms_rx_mem_alloc() */
	u32 hds_thresh;
	u8 hds;				/* ETHTOOL_TCP_DATA_SPLIT_*: what was asked for */
};

struct dms_port {
	struct net_device *dev;
	struct dms_port *peer;
	struct dms_pair *pair;
	const struct dms_personality *personality;
	char id[16];			/* "pair0-a": its debugfs folder, whatever the net device is called */
	bool up;			/* between ndo_open and ndo_stop. Under pair->lock. */
	unsigned int max_queues;
	unsigned int channels;		/* Under the port's lock. */
	/*
	 * Frames a Tx queue may have on the wire before the stack is asked to wait: what keeps a slow receiver from
	 * dropping. It is woken at half of that. Changed under the port's lock, read by anybody.
	 */
	u32 tx_ring;
	u32 rx_usecs;			/* interrupt moderation. As tx_ring. */
	struct dms_rx_config config;
	u64 restarts;			/* of single queues */
	u64 pauses;			/* of a queue, because another restarted (mlx5, gve) */
	struct dms_rxq *rxq;		/* max_queues of them, for the port's lifetime: counters outlive restarts */
	struct dms_txq *txq;
	struct dms_steer *steer;
	atomic_t refuse_rules;		/* knob: fail the next rule insertions */
	struct dentry *debugfs;
};

struct dms_pair {
	struct list_head list;
	unsigned int id;
	struct platform_device *parent;
	spinlock_t lock;
	struct dms_port *port[2];
};

/* "The port's lock": the instance lock where the kernel has one for devices with queue_mgmt_ops, else rtnl. */

/* --- parse.c: what the NIC's parser knows of a frame ------------------------------------------------------ */

struct dms_flow {
	struct flow_keys keys;		/* outermost headers; addresses and ports in network order */
	u16 l3;				/* offset of the IP header from the Ethernet header, where headers is set */
	u16 l4;				/* of the TCP or UDP header; 0: neither */
	u16 headers;			/* bytes up to the payload; 0: not splittable (fragment, tunnel, not TCP or UDP) */
	bool fragment;			/* an IP fragment: its ports are not known */
};

void dms_parse(const struct sk_buff *frame, struct dms_flow *flow);

/* --- wire: frames between the ports ----------------------------------------------------------------------- */

/* Lives in the cb of a frame from ndo_start_xmit to the peer's receive engine. */
struct dms_wire {
	struct dms_txq *txq;
	u32 hash;
	u16 l3;				/* of struct dms_flow, these three */
	u16 l4;
	u16 headers;
	u8 hash_type;			/* enum pkt_hash_types */
	bool discard;			/* an ntuple rule says so */
	bool struck;			/* faults were drawn already: a delayed or misrouted frame is not struck twice */
	unsigned long due;		/* jiffies, DMS_FAULT_DELAY */
};

static inline struct dms_wire *dms_wire(struct sk_buff *frame)
{
	BUILD_BUG_ON(sizeof(struct dms_wire) > sizeof_field(struct sk_buff, cb));
	return (struct dms_wire *)frame->cb;
}

/* Hands @frame to @rxq's NAPI; the caller counts it in its txq's in_flight. RCU read side, BH off. */
void dms_rx_inbound(struct dms_rxq *rxq, struct sk_buff *frame);

/* tx.c */
netdev_tx_t dms_xmit(struct sk_buff *skb, struct net_device *dev);
void dms_tx_done(struct sk_buff *frame, int budget);
void dms_tx_room(struct dms_port *port);	/* the Tx rings have been resized */

/* dma.c: the NIC's view of memory */
__wsum dms_dma_read(const struct sk_buff *frame, unsigned int offset, void *to, unsigned int len, struct device *dma_dev);
void *dms_dma_target(struct device *dma_dev, netmem_ref netmem, unsigned int offset);

/* rx.c */
int dms_poll(struct napi_struct *napi, int budget);
void dms_rx_init(struct dms_rxq *rxq);
void dms_rx_purge(struct dms_rxq *rxq);

/* rx_memory.c */
int dms_rx_mem_alloc(struct dms_rxq *rxq, struct dms_rx_mem *mem, const struct dms_rx_config *config, u32 page_size,
		     bool replaces);
void dms_rx_mem_free(struct dms_rx_mem *mem);
void dms_rx_refill(struct dms_rxq *rxq);

struct dms_piece {
	netmem_ref netmem;
	u32 offset, len, truesize;
};

int dms_rx_take(struct dms_rx_mem *mem, unsigned int len, bool contiguous, struct dms_piece *pieces);
/* The buffer after the one being filled, or 0: where a misplaced write goes. */
netmem_ref dms_rx_next_buffer(const struct dms_rx_mem *mem);

/* hw_gro.c: NETIF_F_GRO_HW. NULL state where it could not be allocated. */
int dms_gro_alloc(struct dms_rxq *rxq);
void dms_gro_free(struct dms_rxq *rxq);
/* Takes @skb (true) if it was merged or held; else the caller delivers it. */
bool dms_gro_receive(struct dms_rxq *rxq, struct sk_buff *skb, const struct dms_wire *wire);
/* Ends what is held: all of it, or what is held for long. NAPI, or BH off while the queue stands. */
void dms_gro_flush(struct dms_rxq *rxq, bool all);
void dms_rx_deliver(struct dms_rxq *rxq, struct sk_buff *skb);

/* queues.c: starting, stopping and swapping queues. Under the port's lock. */
void dms_queues_init(struct dms_port *port);
int dms_queues_start(struct dms_port *port, unsigned int from, unsigned int to);
void dms_queues_stop(struct dms_port *port, unsigned int from, unsigned int to);
int dms_queues_reconfigure(struct dms_port *port, const struct dms_rx_config *config);
int dms_queue_reset(struct dms_port *port, unsigned int index);
u32 dms_queue_page_size(struct dms_port *port, unsigned int index);
bool dms_split_on(const struct dms_port *port, const struct dms_rx_config *config);

/* stats.c */
extern const struct netdev_stat_ops dms_stat_ops;
void dms_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *total);
int dms_sset_count(struct net_device *dev, int set);
void dms_get_strings(struct net_device *dev, u32 set, u8 *data);
void dms_ethtool_stats(struct net_device *dev, struct ethtool_stats *info, u64 *data);
#define dms_count(queue, field, n) do {					\
	u64_stats_update_begin(&(queue)->sync);				\
	(queue)->stats.field += (n);					\
	u64_stats_update_end(&(queue)->sync);				\
} while (0)

/* netdev.c */
struct dms_port *dms_port_create(struct dms_pair *pair, unsigned int end, unsigned int queues,
				 const struct dms_personality *personality);
void dms_port_free(struct dms_port *port);
static inline struct dms_port *dms_port(const struct net_device *dev)
{
	return *(struct dms_port **)netdev_priv(dev);
}

/* ethtool.c */
extern const struct ethtool_ops dms_ethtool_ops;

/* --- steer.c, rss.c, ntuple.c: which queue takes a frame --------------------------------------------------- */

/*
 * Before register_netdev(), after port->{dev, max_queues, channels, personality} are set; -ENOMEM.
 * Default: Toeplitz with a random key, table spread over port->channels, no rule.
 */
int dms_steer_init(struct dms_port *port);
void dms_steer_free(struct dms_port *port);	/* after unregister_netdev() */
/*
 * The Rx queue of @port, < port->channels at the time of its last dms_steer_channels(), that takes a frame with these
 * headers; its RSS hash. Any context; RCU inside.
 */
#define DMS_STEER_DISCARD	0xffff	/* an ntuple rule drops it */
u16 dms_steer(struct dms_port *port, const struct dms_flow *flow, u32 *hash, enum pkt_hash_types *type);
/* After port->channels changed: respreads the default table unless the user has set one. Under the port's lock. */
void dms_steer_channels(struct dms_port *port);
/* ndo_set_features' part: ntuple turned off flushes the rules of personalities that do so. Under the port's lock. */
void dms_steer_features(struct dms_port *port, netdev_features_t features);

/* ethtool operations: rss.c */
#define DMS_RSS_TABLE		128
#define DMS_RSS_KEY		40
#define DMS_RSS_CONTEXTS	64
u32 dms_get_rxfh_key_size(struct net_device *dev);
u32 dms_get_rxfh_indir_size(struct net_device *dev);
int dms_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh);
int dms_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh, struct netlink_ext_ack *extack);
int dms_create_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			    const struct ethtool_rxfh_param *rxfh, struct netlink_ext_ack *extack);
int dms_modify_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			    const struct ethtool_rxfh_param *rxfh, struct netlink_ext_ack *extack);
int dms_remove_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx, u32 rss_context,
			    struct netlink_ext_ack *extack);
#ifdef DMS_HAVE_RXFH_FIELDS
int dms_get_rxfh_fields(struct net_device *dev, struct ethtool_rxfh_fields *fields);
int dms_set_rxfh_fields(struct net_device *dev, const struct ethtool_rxfh_fields *fields, struct netlink_ext_ack *extack);
#endif

/* ntuple.c */
int dms_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *info, u32 *locations);
int dms_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *info);

#endif
