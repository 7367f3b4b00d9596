// SPDX-License-Identifier: GPL-2.0
/* Counters: per queue through netdev-genl qstats-get, per device through rtnetlink and ethtool -S. */
#include <net/netdev_queues.h>

#include "devmemsim.h"

static struct dms_rx_stats dms_rx_read(const struct dms_rxq *rxq)
{
	struct dms_rx_stats stats;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&rxq->sync);
		stats = rxq->stats;
	} while (u64_stats_fetch_retry(&rxq->sync, start));
	return stats;
}

static struct dms_tx_stats dms_tx_read(const struct dms_txq *txq)
{
	struct dms_tx_stats stats;
	unsigned int start;

	do {
		start = u64_stats_fetch_begin(&txq->sync);
		stats = txq->stats;
	} while (u64_stats_fetch_retry(&txq->sync, start));
	return stats;
}

static void dms_rx_report(const struct dms_rxq *rxq, struct netdev_queue_stats_rx *to)
{
	struct dms_rx_stats stats = dms_rx_read(rxq);

	to->packets += stats.packets;
	to->bytes += stats.bytes;
	to->alloc_fail += stats.alloc_fail;
	to->hw_drops += stats.drops;
	to->hw_drop_overruns += stats.overruns;
	to->csum_unnecessary += stats.csum_unnecessary;
	to->csum_none += stats.csum_none;
	to->csum_bad += stats.csum_bad;
	to->hw_gro_packets += stats.gro_packets;
	to->hw_gro_bytes += stats.gro_bytes;
	to->hw_gro_wire_packets += stats.gro_wire_packets;
	to->hw_gro_wire_bytes += stats.gro_wire_bytes;
#ifdef DMS_HAVE_CSUM_COMPLETE_STAT
	to->csum_complete += stats.csum_complete;
#endif
}

static void dms_tx_report(const struct dms_txq *txq, struct netdev_queue_stats_tx *to)
{
	struct dms_tx_stats stats = dms_tx_read(txq);

	to->packets += stats.packets;
	to->bytes += stats.bytes;
	to->hw_drops += stats.errors;
	to->hw_drop_errors += stats.errors;
	to->csum_none += stats.csum_none;
	to->needs_csum += stats.needs_csum;
	to->hw_gso_packets += stats.gso_packets;
	to->hw_gso_bytes += stats.gso_bytes;
	to->hw_gso_wire_packets += stats.gso_wire_packets;
	to->hw_gso_wire_bytes += stats.gso_wire_bytes;
	to->stop += stats.stop;
	to->wake += atomic64_read(&txq->wakes);
}

/* The core marks what is not collected with ~0; ours are sums, so what is collected starts from 0. */
static void dms_rx_clear(struct netdev_queue_stats_rx *stats)
{
	stats->packets = stats->bytes = stats->alloc_fail = 0;
	stats->hw_drops = stats->hw_drop_overruns = 0;
	stats->csum_unnecessary = stats->csum_none = stats->csum_bad = 0;
	stats->hw_gro_packets = stats->hw_gro_bytes = 0;
	stats->hw_gro_wire_packets = stats->hw_gro_wire_bytes = 0;
#ifdef DMS_HAVE_CSUM_COMPLETE_STAT
	stats->csum_complete = 0;
#endif
}

static void dms_tx_clear(struct netdev_queue_stats_tx *stats)
{
	stats->packets = stats->bytes = 0;
	stats->hw_drops = stats->hw_drop_errors = 0;
	stats->csum_none = stats->needs_csum = 0;
	stats->hw_gso_packets = stats->hw_gso_bytes = 0;
	stats->hw_gso_wire_packets = stats->hw_gso_wire_bytes = 0;
	stats->stop = stats->wake = 0;
}

static void dms_queue_stats_rx(struct net_device *dev, int index, struct netdev_queue_stats_rx *stats)
{
	dms_rx_clear(stats);
	dms_rx_report(&dms_port(dev)->rxq[index], stats);
}

static void dms_queue_stats_tx(struct net_device *dev, int index, struct netdev_queue_stats_tx *stats)
{
	dms_tx_clear(stats);
	dms_tx_report(&dms_port(dev)->txq[index], stats);
}

/* What queues counted that are not in use now. */
static void dms_base_stats(struct net_device *dev, struct netdev_queue_stats_rx *rx, struct netdev_queue_stats_tx *tx)
{
	struct dms_port *port = dms_port(dev);
	unsigned int i;

	dms_rx_clear(rx);
	dms_tx_clear(tx);
	for (i = dev->real_num_rx_queues; i < port->max_queues; i++)
		dms_rx_report(&port->rxq[i], rx);
	for (i = dev->real_num_tx_queues; i < port->max_queues; i++)
		dms_tx_report(&port->txq[i], tx);
}

const struct netdev_stat_ops dms_stat_ops = {
	.get_queue_stats_rx = dms_queue_stats_rx,
	.get_queue_stats_tx = dms_queue_stats_tx,
	.get_base_stats = dms_base_stats,
};

void dms_get_stats64(struct net_device *dev, struct rtnl_link_stats64 *total)
{
	struct dms_port *port = dms_port(dev);
	unsigned int i;

	for (i = 0; i < port->max_queues; i++) {
		struct dms_rx_stats rx = dms_rx_read(&port->rxq[i]);
		struct dms_tx_stats tx = dms_tx_read(&port->txq[i]);

		total->rx_packets += rx.packets;
		total->rx_bytes += rx.bytes;
		total->rx_missed_errors += rx.drops;
		total->rx_crc_errors += rx.csum_bad;
		total->tx_packets += tx.packets;
		total->tx_bytes += tx.bytes;
		total->tx_errors += tx.errors;
	}
}

/* --- ethtool -S: what has no standard place ----------------------------------------------------------------------- */

static const char dms_strings[][ETH_GSTRING_LEN] = {
	"rx_header_split", "rx_dma_faults", "queue_restarts", "queue_pauses", "tx_on_wire",
};

int dms_sset_count(struct net_device *dev, int set)
{
	return set == ETH_SS_STATS ? ARRAY_SIZE(dms_strings) : -EOPNOTSUPP;
}

void dms_get_strings(struct net_device *dev, u32 set, u8 *data)
{
	if (set == ETH_SS_STATS)
		memcpy(data, dms_strings, sizeof(dms_strings));
}

void dms_ethtool_stats(struct net_device *dev, struct ethtool_stats *info, u64 *data)
{
	struct dms_port *port = dms_port(dev);
	unsigned int i;

	memset(data, 0, sizeof(*data) * ARRAY_SIZE(dms_strings));
	for (i = 0; i < port->max_queues; i++) {
		struct dms_rx_stats rx = dms_rx_read(&port->rxq[i]);

		data[0] += rx.split;
		data[1] += rx.dma_faults;
		data[4] += atomic_read(&port->txq[i].in_flight);
	}
	data[2] = port->restarts;
	data[3] = port->pauses;
}
