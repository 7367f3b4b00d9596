// SPDX-License-Identifier: GPL-2.0
/*
 * Receive-side scaling as ethtool sees it: key, symmetric transform, hash fields and indirection
 * table of the main context and of those that users create for ntuple rules.
 */
#include <linux/slab.h>

#include "steer.h"

#define DMS_HASH_L3	(RXH_IP_SRC | RXH_IP_DST)
#define DMS_HASH_L4	(RXH_L4_B_0_1 | RXH_L4_B_2_3)

#ifdef RXH_XFRM_SYM_OR_XOR
#define DMS_XFRM_ALL	(RXH_XFRM_SYM_XOR | RXH_XFRM_SYM_OR_XOR)
#else
#define DMS_XFRM_ALL	RXH_XFRM_SYM_XOR
#endif

static void dms_rss_spread(struct dms_rss *rss, unsigned int channels)
{
	unsigned int i;

	for (i = 0; i < DMS_RSS_TABLE; i++)
		rss->table[i] = ethtool_rxfh_indir_default(i, channels);
}

struct dms_rss *dms_rss_default(const struct dms_port *port)
{
	struct dms_rss *rss = kzalloc(sizeof(*rss), GFP_KERNEL);
	u8 key[DMS_RSS_KEY];
	unsigned int i;

	if (!rss)
		return NULL;
	netdev_rss_key_fill(key, sizeof(key));
	dms_rss_set_key(rss, key);
	dms_rss_spread(rss, port->channels);
	for (i = 0; i < DMS_TRAFFIC_COUNT; i++)
		rss->fields[i] = i < DMS_IP4 ? DMS_HASH_L3 | DMS_HASH_L4 : DMS_HASH_L3;
	return rss;
}

/* NULL where there is no such context. Under steer->lock. */
const struct dms_rss *dms_rss_context(const struct dms_steer *steer, u32 context)
{
	if (context >= DMS_RSS_CONTEXTS)
		return NULL;
	return rcu_dereference_protected(steer->rss[context], lockdep_is_held(&steer->lock));
}

/* Makes @rss, or nothing if it is NULL, what @context is from now on. Under steer->lock. */
void dms_rss_publish(struct dms_steer *steer, u32 context, struct dms_rss *rss)
{
	struct dms_rss *old;

	old = rcu_replace_pointer(steer->rss[context], rss, lockdep_is_held(&steer->lock));
	if (old)
		kfree_rcu(old, rcu);
}

/* A copy of @context to change and publish, or an error. Under steer->lock. */
static struct dms_rss *dms_rss_edit(struct dms_steer *steer, u32 context)
{
	const struct dms_rss *old = dms_rss_context(steer, context);
	struct dms_rss *rss;

	if (!old)
		return ERR_PTR(-ENOENT);
	rss = kmemdup(old, sizeof(*old), GFP_KERNEL);
	return rss ?: ERR_PTR(-ENOMEM);
}

/* Under steer->lock. Out of memory, the old table stays; steer.c keeps its queues in range. */
void dms_rss_respread(struct dms_port *port)
{
	struct dms_rss *rss = dms_rss_edit(port->steer, 0);

	if (IS_ERR(rss)) {
		netdev_warn(port->dev, "no memory to spread the RSS table over %u queues\n",
			    port->channels);
		return;
	}
	dms_rss_spread(rss, port->channels);
	dms_rss_publish(port->steer, 0, rss);
}

u32 dms_get_rxfh_key_size(struct net_device *dev)
{
	return DMS_RSS_KEY;
}

u32 dms_get_rxfh_indir_size(struct net_device *dev)
{
	return DMS_RSS_TABLE;
}

static void dms_rss_read(const struct dms_rss *rss, u32 *table, u8 *key)
{
	unsigned int i;

	if (table)
		for (i = 0; i < DMS_RSS_TABLE; i++)
			table[i] = rss->table[i];
	if (key)
		memcpy(key, rss->key, DMS_RSS_KEY);
}

int dms_get_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh)
{
	struct dms_steer *steer = dms_port(dev)->steer;
	const struct dms_rss *rss;
	int err = 0;

	mutex_lock(&steer->lock);
	rss = dms_rss_context(steer, rxfh->rss_context);
	if (rss) {
		rxfh->hfunc = ETH_RSS_HASH_TOP;
		rxfh->input_xfrm = rss->xfrm;
		dms_rss_read(rss, rxfh->indir, rxfh->key);
	} else {
		err = -ENOENT;
	}
	mutex_unlock(&steer->lock);
	return err;
}

/* Changes @rss to what @rxfh asks for, or leaves it half changed and fails. */
static int dms_rss_apply(const struct dms_port *port, struct dms_rss *rss,
			 const struct ethtool_rxfh_param *rxfh, struct netlink_ext_ack *extack)
{
	unsigned int i;

	if (rxfh->hfunc != ETH_RSS_HASH_NO_CHANGE && rxfh->hfunc != ETH_RSS_HASH_TOP) {
		NL_SET_ERR_MSG_MOD(extack, "the only hash function is Toeplitz");
		return -EOPNOTSUPP;
	}
	if (rxfh->input_xfrm != RXH_XFRM_NO_CHANGE) {
		if ((rxfh->input_xfrm & ~DMS_XFRM_ALL) || hweight8(rxfh->input_xfrm) > 1) {
			NL_SET_ERR_MSG_MOD(extack, "no such transform of the hash input");
			return -EOPNOTSUPP;
		}
		rss->xfrm = rxfh->input_xfrm;
	}
	if (rxfh->indir) {
		for (i = 0; i < DMS_RSS_TABLE; i++) {
			if (rxfh->indir[i] >= port->channels) {
				NL_SET_ERR_MSG_FMT_MOD(extack,
						       "entry %u names queue %u, of only %u", i,
						       rxfh->indir[i], port->channels);
				return -EINVAL;
			}
			rss->table[i] = rxfh->indir[i];
		}
	}
	if (rxfh->key)
		dms_rss_set_key(rss, rxfh->key);
	return 0;
}

/* Changes @context, which exists. */
static int dms_rss_change(struct dms_port *port, u32 context, const struct ethtool_rxfh_param *rxfh,
			  struct netlink_ext_ack *extack)
{
	struct dms_steer *steer = port->steer;
	struct dms_rss *rss;
	int err;

	mutex_lock(&steer->lock);
	rss = dms_rss_edit(steer, context);
	err = PTR_ERR_OR_ZERO(rss);
	if (err)
		goto unlock;
	err = dms_rss_apply(port, rss, rxfh, extack);
	if (err)
		kfree(rss);
	else
		dms_rss_publish(steer, context, rss);
unlock:
	mutex_unlock(&steer->lock);
	return err;
}

int dms_set_rxfh(struct net_device *dev, struct ethtool_rxfh_param *rxfh,
		 struct netlink_ext_ack *extack)
{
	return dms_rss_change(dms_port(dev), 0, rxfh, extack);
}

int dms_modify_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			    const struct ethtool_rxfh_param *rxfh, struct netlink_ext_ack *extack)
{
	return dms_rss_change(dms_port(dev), rxfh->rss_context, rxfh, extack);
}

int dms_create_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			    const struct ethtool_rxfh_param *rxfh, struct netlink_ext_ack *extack)
{
	struct dms_port *port = dms_port(dev);
	struct dms_rss *rss;
	int err;

	if (rxfh->rss_context >= DMS_RSS_CONTEXTS) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "there are only %u contexts", DMS_RSS_CONTEXTS);
		return -ERANGE;
	}
	rss = dms_rss_default(port);
	if (!rss)
		return -ENOMEM;
	err = dms_rss_apply(port, rss, rxfh, extack);
	if (err) {
		kfree(rss);
		return err;
	}
	/* What the user leaves open is for the driver to report; the core fills in the rest. */
	dms_rss_read(rss, rxfh->indir ? NULL : ethtool_rxfh_context_indir(ctx),
		     rxfh->key ? NULL : ethtool_rxfh_context_key(ctx));
	ctx->hfunc = ETH_RSS_HASH_TOP;
	ctx->input_xfrm = rss->xfrm;
	mutex_lock(&port->steer->lock);
	dms_rss_publish(port->steer, rxfh->rss_context, rss);
	mutex_unlock(&port->steer->lock);
	return 0;
}

int dms_remove_rxfh_context(struct net_device *dev, struct ethtool_rxfh_context *ctx,
			    u32 rss_context, struct netlink_ext_ack *extack)
{
	struct dms_steer *steer = dms_port(dev)->steer;
	int err = 0;

	mutex_lock(&steer->lock);
	if (dms_rules_use_context(steer, rss_context)) {
		NL_SET_ERR_MSG_MOD(extack, "ntuple rules steer to this context: delete them first");
		err = -EBUSY;
	} else {
		dms_rss_publish(steer, rss_context, NULL);
	}
	mutex_unlock(&steer->lock);
	return err;
}

/* Whose fields @flow_type's are; DMS_TRAFFIC_COUNT for a type that is not hashed. */
static enum dms_traffic dms_rss_traffic(u32 flow_type)
{
	switch (flow_type) {
	case TCP_V4_FLOW:
		return DMS_TCP4;
	case UDP_V4_FLOW:
		return DMS_UDP4;
	case TCP_V6_FLOW:
		return DMS_TCP6;
	case UDP_V6_FLOW:
		return DMS_UDP6;
	case SCTP_V4_FLOW:
	case AH_ESP_V4_FLOW:
	case AH_V4_FLOW:
	case ESP_V4_FLOW:
	case IPV4_FLOW:
		return DMS_IP4;
	case SCTP_V6_FLOW:
	case AH_ESP_V6_FLOW:
	case AH_V6_FLOW:
	case ESP_V6_FLOW:
	case IPV6_FLOW:
		return DMS_IP6;
	default:
		return DMS_TRAFFIC_COUNT;
	}
}

int dms_rss_get_fields(struct dms_port *port, u32 context, u32 flow_type, u32 *fields)
{
	enum dms_traffic traffic = dms_rss_traffic(flow_type);
	struct dms_steer *steer = port->steer;
	const struct dms_rss *rss;
	int err = 0;

	if (traffic == DMS_TRAFFIC_COUNT)
		return -EOPNOTSUPP;
	mutex_lock(&steer->lock);
	rss = dms_rss_context(steer, context);
	if (rss)
		*fields = rss->fields[traffic];
	else
		err = -ENOENT;
	mutex_unlock(&steer->lock);
	return err;
}

int dms_rss_set_fields(struct dms_port *port, u32 context, u32 flow_type, u32 fields,
		       struct netlink_ext_ack *extack)
{
	enum dms_traffic traffic = dms_rss_traffic(flow_type);
	struct dms_steer *steer = port->steer;
	struct dms_rss *rss;

	/* Other IP protocols share the fields of plain IP, which only its own flow type changes. */
	if (traffic == DMS_TRAFFIC_COUNT ||
	    (traffic >= DMS_IP4 && flow_type != IPV4_FLOW && flow_type != IPV6_FLOW)) {
		NL_SET_ERR_MSG_MOD(extack, "hash fields can be chosen for tcp, udp and ip flows");
		return -EOPNOTSUPP;
	}
	if (fields & ~(traffic < DMS_IP4 ? DMS_HASH_L3 | DMS_HASH_L4 : DMS_HASH_L3)) {
		NL_SET_ERR_MSG_MOD(extack, "the hash takes IP addresses, and ports of TCP and UDP");
		return -EINVAL;
	}
	mutex_lock(&steer->lock);
	rss = dms_rss_edit(steer, context);
	if (!IS_ERR(rss)) {
		rss->fields[traffic] = fields;
		dms_rss_publish(steer, context, rss);
	}
	mutex_unlock(&steer->lock);
	return PTR_ERR_OR_ZERO(rss);
}

#ifdef DMS_HAVE_RXFH_FIELDS
int dms_get_rxfh_fields(struct net_device *dev, struct ethtool_rxfh_fields *fields)
{
	return dms_rss_get_fields(dms_port(dev), fields->rss_context, fields->flow_type,
				  &fields->data);
}

int dms_set_rxfh_fields(struct net_device *dev, const struct ethtool_rxfh_fields *fields,
			struct netlink_ext_ack *extack)
{
	return dms_rss_set_fields(dms_port(dev), fields->rss_context, fields->flow_type,
				  fields->data, extack);
}
#endif
