// SPDX-License-Identifier: GPL-2.0
/* ethtool: rings and header split, channels, link. RSS and rules are in rss.c and ntuple.c, counters in stats.c. */
#include <linux/ethtool.h>
#include <net/netdev_queues.h>

#include "devmemsim.h"

static void dms_get_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	struct dms_port *port = dms_port(dev);

	strscpy(info->driver, DMS_NAME, sizeof(info->driver));
	strscpy(info->fw_version, port->personality->name, sizeof(info->fw_version));
	strscpy(info->bus_info, dev_name(dev->dev.parent), sizeof(info->bus_info));
}

static int dms_get_link_ksettings(struct net_device *dev, struct ethtool_link_ksettings *settings)
{
	ethtool_link_ksettings_zero_link_mode(settings, supported);
	ethtool_link_ksettings_zero_link_mode(settings, advertising);
	settings->base.speed = netif_carrier_ok(dev) ? SPEED_100000 : SPEED_UNKNOWN;
	settings->base.duplex = DUPLEX_FULL;
	settings->base.port = PORT_DA;
	settings->base.autoneg = AUTONEG_DISABLE;
	return 0;
}

/* --- rings ----------------------------------------------------------------------------------------------------------- */

static void dms_get_ringparam(struct net_device *dev, struct ethtool_ringparam *ring,
			      struct kernel_ethtool_ringparam *kernel_ring, struct netlink_ext_ack *extack)
{
	struct dms_port *port = dms_port(dev);

	ring->rx_max_pending = DMS_MAX_RING;
	ring->rx_pending = port->config.ring;
	ring->tx_max_pending = DMS_MAX_RING;
	ring->tx_pending = port->tx_ring;
	kernel_ring->tcp_data_split = dms_split_on(port, &port->config) ? ETHTOOL_TCP_DATA_SPLIT_ENABLED :
									  ETHTOOL_TCP_DATA_SPLIT_DISABLED;
#ifdef DMS_HAVE_HDS_CONFIG
	kernel_ring->hds_thresh = port->config.hds_thresh;
	kernel_ring->hds_thresh_max = DMS_MAX_HDS_THRESH;
#endif
}

static int dms_check_split(struct dms_port *port, u8 wanted, struct netlink_ext_ack *extack)
{
	const struct dms_personality *personality = port->personality;

	if (wanted == port->config.hds)
		return 0;
	if (wanted == ETHTOOL_TCP_DATA_SPLIT_DISABLED && personality->split_refuses_off) {
		NL_SET_ERR_MSG_MOD(extack, "tcp-data-split cannot be set to off");
		return -EINVAL;
	}
	if (wanted != ETHTOOL_TCP_DATA_SPLIT_ENABLED)
		return 0;
	if (personality->split_wants_gro_hw && !(port->dev->features & NETIF_F_GRO_HW)) {
		NL_SET_ERR_MSG_MOD(extack, "tcp-data-split needs rx-gro-hw on");
		return -EINVAL;
	}
	if (personality->split_wants_up && !netif_running(port->dev)) {
		NL_SET_ERR_MSG_MOD(extack, "tcp-data-split needs the link up");
		return -ENETDOWN;
	}
	return 0;
}

static bool dms_binds_memory(struct dms_port *port)
{
	unsigned int i;

	for (i = 0; i < port->channels; i++)
		if (port->rxq[i].mem.pool && dms_pool_unreadable(port->rxq[i].mem.pool))
			return true;
	return false;
}

static int dms_set_ringparam(struct net_device *dev, struct ethtool_ringparam *ring,
			     struct kernel_ethtool_ringparam *kernel_ring, struct netlink_ext_ack *extack)
{
	struct dms_port *port = dms_port(dev);
	struct dms_rx_config config = port->config;
	int err;

	if (ring->rx_pending < DMS_MIN_RING || ring->tx_pending < DMS_MIN_RING) {
		NL_SET_ERR_MSG_MOD(extack, "rx and tx take 16 to 8192");
		return -EINVAL;
	}
	err = dms_check_split(port, kernel_ring->tcp_data_split, extack);
	if (err)
		return err;
	config.ring = ring->rx_pending;
	config.hds = kernel_ring->tcp_data_split;
#ifdef DMS_HAVE_HDS_CONFIG
	config.hds_thresh = kernel_ring->hds_thresh;
#endif
	/* Newer cores refuse this themselves. */
	if (!dms_split_on(port, &config) && dms_binds_memory(port)) {
		NL_SET_ERR_MSG_MOD(extack, "header split is in use by device memory");
		return -EBUSY;
	}
	if (config.ring != port->config.ring || config.hds != port->config.hds || config.hds_thresh != port->config.hds_thresh)
		err = dms_queues_reconfigure(port, &config);
	if (!err && ring->tx_pending != port->tx_ring) {
		WRITE_ONCE(port->tx_ring, ring->tx_pending);
		dms_tx_room(port);
	}
	return err;
}

/* --- interrupt moderation: frames that come within rx-usecs are polled, and may be merged, together ----------------------- */

#define DMS_MAX_RX_USECS	1000000

static int dms_get_coalesce(struct net_device *dev, struct ethtool_coalesce *coalesce,
			    struct kernel_ethtool_coalesce *kernel_coalesce, struct netlink_ext_ack *extack)
{
	coalesce->rx_coalesce_usecs = dms_port(dev)->rx_usecs;
	return 0;
}

static int dms_set_coalesce(struct net_device *dev, struct ethtool_coalesce *coalesce,
			    struct kernel_ethtool_coalesce *kernel_coalesce, struct netlink_ext_ack *extack)
{
	if (coalesce->rx_coalesce_usecs > DMS_MAX_RX_USECS) {
		NL_SET_ERR_MSG_MOD(extack, "rx-usecs takes up to 1000000");
		return -EINVAL;
	}
	WRITE_ONCE(dms_port(dev)->rx_usecs, coalesce->rx_coalesce_usecs);
	return 0;
}

/* --- channels --------------------------------------------------------------------------------------------------------- */

static void dms_get_channels(struct net_device *dev, struct ethtool_channels *channels)
{
	struct dms_port *port = dms_port(dev);

	channels->max_combined = port->max_queues;
	channels->combined_count = port->channels;
}

static int dms_set_real_queues(struct net_device *dev, unsigned int n)
{
	int err = netif_set_real_num_tx_queues(dev, n);

	return err ?: netif_set_real_num_rx_queues(dev, n);
}

/* The queues that stay are not disturbed. */
static int dms_set_channels(struct net_device *dev, struct ethtool_channels *channels)
{
	struct dms_port *port = dms_port(dev);
	unsigned int before = port->channels, after = channels->combined_count, i;
	int err;

	if (!after)
		return -EINVAL;
	if (after > before) {
		if (netif_running(dev)) {
			err = dms_queues_start(port, before, after);
			if (err)
				return err;
		}
		err = dms_set_real_queues(dev, after);
		if (err) {
			dms_set_real_queues(dev, before);
			if (netif_running(dev))
				dms_queues_stop(port, before, after);
			return err;
		}
		WRITE_ONCE(port->channels, after);
		dms_steer_channels(port);
		return 0;
	}

	err = dms_set_real_queues(dev, after);
	if (err)
		return err;
	WRITE_ONCE(port->channels, after);
	dms_steer_channels(port);
	synchronize_net();	/* nobody steers to the others any more */
	if (netif_running(dev))
		dms_queues_stop(port, after, before);
	for (i = after; i < before; i++)
		dms_rx_purge(&port->rxq[i]);
	return 0;
}

#ifdef DMS_HAVE_RX_RING_COUNT
static u32 dms_get_rx_ring_count(struct net_device *dev)
{
	return dms_port(dev)->channels;
}
#endif

const struct ethtool_ops dms_ethtool_ops = {
	.supported_ring_params = ETHTOOL_RING_USE_TCP_DATA_SPLIT
#ifdef DMS_HAVE_HDS_CONFIG
				 | ETHTOOL_RING_USE_HDS_THRS
#endif
	,
	.supported_coalesce_params = ETHTOOL_COALESCE_RX_USECS,
#ifdef DMS_HAVE_OP_NEEDS_RTNL
	.op_needs_rtnl = ETHTOOL_OP_NEEDS_RTNL_SCHANNELS |	/* netif_set_real_num_tx_queues() */
			 ETHTOOL_OP_NEEDS_RTNL_GLINK,		/* ethtool_op_get_link() */
#endif
	.rxfh_indir_space = DMS_RSS_TABLE,
	.rxfh_key_space = DMS_RSS_KEY,
	.rxfh_max_num_contexts = DMS_RSS_CONTEXTS,
	.rxfh_per_ctx_key = 1,
	.cap_rss_rxnfc_adds = 1,
#ifdef DMS_HAVE_INPUT_XFRM_MASK
	.supported_input_xfrm = RXH_XFRM_SYM_XOR | RXH_XFRM_SYM_OR_XOR,
#else
	.cap_rss_sym_xor_supported = 1,
#endif
#ifdef DMS_HAVE_PER_CTX_FIELDS
	.rxfh_per_ctx_fields = 1,
#endif
	.get_rxfh_key_size = dms_get_rxfh_key_size,
	.get_rxfh_indir_size = dms_get_rxfh_indir_size,
	.get_rxfh = dms_get_rxfh,
	.set_rxfh = dms_set_rxfh,
	.create_rxfh_context = dms_create_rxfh_context,
	.modify_rxfh_context = dms_modify_rxfh_context,
	.remove_rxfh_context = dms_remove_rxfh_context,
#ifdef DMS_HAVE_RXFH_FIELDS
	.get_rxfh_fields = dms_get_rxfh_fields,
	.set_rxfh_fields = dms_set_rxfh_fields,
#endif
	.get_rxnfc = dms_get_rxnfc,
	.set_rxnfc = dms_set_rxnfc,
	.get_drvinfo = dms_get_drvinfo,
	.get_link = ethtool_op_get_link,
	.get_link_ksettings = dms_get_link_ksettings,
	.get_ts_info = ethtool_op_get_ts_info,
	.get_ringparam = dms_get_ringparam,
	.set_ringparam = dms_set_ringparam,
	.get_coalesce = dms_get_coalesce,
	.set_coalesce = dms_set_coalesce,
	.get_channels = dms_get_channels,
	.set_channels = dms_set_channels,
	.get_sset_count = dms_sset_count,
	.get_strings = dms_get_strings,
	.get_ethtool_stats = dms_ethtool_stats,
#ifdef DMS_HAVE_RX_RING_COUNT
	.get_rx_ring_count = dms_get_rx_ring_count,
#endif
};
