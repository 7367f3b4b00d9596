/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What steer.c (the receive path), rss.c and ntuple.c (ethtool) share. Everything published here by
 * RCU is immutable: a change replaces the whole RSS context or rule, so a frame sees the old one or
 * the new one and no mixture.
 */
#ifndef DEVMEMSIM_STEER_H
#define DEVMEMSIM_STEER_H

#include <linux/mutex.h>
#include <linux/rculist.h>

#include "devmemsim.h"

/* Kinds of traffic whose hash fields are chosen apart (ethtool -N DEV rx-flow-hash). */
enum dms_traffic {
	DMS_TCP4,
	DMS_UDP4,
	DMS_TCP6,
	DMS_UDP6,
	DMS_IP4,		/* and every fragment */
	DMS_IP6,
	DMS_TRAFFIC_COUNT
};

/* The longest hash input: two IPv6 addresses and two ports. */
#define DMS_HASH_INPUT		36

struct dms_rss {
	struct rcu_head rcu;
	u8 key[DMS_RSS_KEY];
	u8 xfrm;				/* RXH_XFRM_* */
	u32 fields[DMS_TRAFFIC_COUNT];		/* RXH_* */
	u16 table[DMS_RSS_TABLE];
	u32 part[DMS_HASH_INPUT * 2][16];	/* what each nibble of the input adds to the hash */
};

/* The fields a rule can look at; IPv4 addresses in src[0] and dst[0]. */
struct dms_tuple {
	__be32 src[4], dst[4];
	union {
		struct {
			__be16 sport, dport;
		};
		__be32 ports;
	};
};

struct dms_rule {
	struct list_head list;
	struct rcu_head rcu;
	struct ethtool_rx_flow_spec spec;	/* as it was asked for, location resolved */
	u32 context;				/* with FLOW_RSS in spec.flow_type */
	__be16 n_proto;
	u8 ip_proto;				/* 0: any */
	struct dms_tuple value, mask;		/* value has no bit outside of mask */
};

struct dms_steer {
	struct mutex lock;			/* of writers, and of readers that sleep. A leaf. */
	struct dms_rss __rcu *rss[DMS_RSS_CONTEXTS];	/* [0] always exists */
	struct list_head rules;			/* struct dms_rule by location */
	unsigned int rule_count;
	unsigned int channels;			/* READ_ONCE() outside of lock */
};

/* steer.c */
void dms_rss_set_key(struct dms_rss *rss, const u8 *key);

/* rss.c */
struct dms_rss *dms_rss_default(const struct dms_port *port);
const struct dms_rss *dms_rss_context(const struct dms_steer *steer, u32 context);
void dms_rss_publish(struct dms_steer *steer, u32 context, struct dms_rss *rss);
void dms_rss_respread(struct dms_port *port);
int dms_rss_get_fields(struct dms_port *port, u32 context, u32 flow_type, u32 *fields);
int dms_rss_set_fields(struct dms_port *port, u32 context, u32 flow_type, u32 fields,
		       struct netlink_ext_ack *extack);

/* ntuple.c, under steer->lock */
void dms_rules_flush(struct dms_steer *steer);
bool dms_rules_use_context(const struct dms_steer *steer, u32 context);

#endif
