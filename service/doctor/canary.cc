// SPDX-License-Identifier: Apache-2.0
//   1. The reference: a range of the object, over an ordinary socket.
//   2. A bind with large buffers, where there are huge pages, and off again: what rx-page-size the driver takes.
//   3. A pool full of poison, bound; a rule, a connection.
//   4. Probes: answers of one frame each. After each the wire is quiet, so a write that went astray has not been overwritten.
//   5. The whole range at once, as data comes in earnest.
//   6. What is wrong with the first answer that is not right ends it, and is the verdict.
//   7. Socket, rule, binding: off in this order.
#include "service/doctor/canary.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "net/netlink/netdev.h"
#include "net/rx/flow_steering.h"
#include "net/rx/landing_pool.h"
#include "net/rx/rx_binding.h"
#include "service/doctor/canary_judge.h"
#include "service/doctor/canary_stream.h"
#include "service/doctor/resolve.h"

namespace devmem::doctor {
namespace {

constexpr uint64_t kRange = uint64_t{4} << 20;  // bytes of the object
constexpr uint64_t kReceiveBuffer = uint64_t{1} << 20;
constexpr uint64_t kLeastReceiveBuffer = 128 << 10;
constexpr uint32_t kLargePage = 64 << 10;
constexpr int kProbes = 64;
constexpr uint64_t kProbe = 256;             // with a head of up to 1 KiB, one frame
constexpr uint64_t kLeastPayload = 1024;     // of a frame that is not the last one: each pins a buffer at worst
constexpr size_t kChunk = 1 << 20;           // of the pool, to and from the device
constexpr uint64_t kSeed = 0x646576'6d656d;  // any will do: what it makes differs from place to place
constexpr char kBindingWanted[] = "header split, RSS off the queue, and a dma-buf on it";
constexpr char kCanaryWanted[] = "every byte where the NIC said it is";
constexpr char kNoDevmem[] = "do not receive into device memory on this machine before this row passes";

std::string SizeText(uint64_t bytes) {
  return bytes >= 1 << 20 ? absl::StrCat(bytes >> 20, " MiB") : absl::StrCat(bytes >> 10, " KiB");
}

struct Pool {
  std::shared_ptr<DeviceMemory> memory;
  UniqueFd dmabuf;
};

class Canary {
 public:
  explicit Canary(const CanaryQuestion& question)
      : question_(question), range_(std::min(kRange, question.object_bytes)), poison_(kSeed) {}

  Rows Run() {
    if (range_ == 0) return NoCanaryRows(question_.interface, "the bucket has no object to read", "put one of some MiB there");
    if (const absl::Status read = ReadReference(); !read.ok()) {
      return NoCanaryRows(question_.interface, absl::StrCat("the object cannot be read over an ordinary socket: ", Words(read)),
                          "see row store");
    }
    TryLargePages();
    if (const absl::Status bound = Bind(); !bound.ok()) {
      rows_.push_back(
          Fail("binding", question_.interface, {.found = Words(bound), .wanted = kBindingWanted, .fix = FixOf(bound)}));
      rows_.push_back(Skip("canary", question_.interface, "nothing could be bound"));
      rows_.push_back(Skip("put-back", question_.interface, "nothing was bound"));
      return std::move(rows_);
    }
    rows_.push_back(Pass(
        "binding", question_.interface,
        {.found = absl::StrCat("queue ", question_.queue, ", ", binding_->posted(), " buffers of ", binding_->page_size() >> 10,
                               " KiB posted", binding_->by_handle() ? ", by a handle of devmem_binding" : ""),
         .wanted = kBindingWanted}));
    Stream();
    PutBack();
    return std::move(rows_);
  }

 private:
  absl::Status ReadReference() {
    std::array<SmallRead, 1> reads;
    reads[0].object = question_.object;
    reads[0].length = range_;
    DEVMEM_RETURN_IF_ERROR(question_.store->ReadSmall(reads, 1, Clock::now() + question_.timeout, nullptr));
    DEVMEM_RETURN_IF_ERROR(reads[0].status);
    reference_ = std::move(reads[0].bytes);
    if (reference_.size() == range_) return absl::OkStatus();
    return MakeError(absl::StatusCode::kDataLoss,
                     absl::StrCat("it has ", reference_.size(), " bytes instead of the ", range_, " that were listed"),
                     {.object = question_.object});
  }

  // A row page-size in any case.
  void TryLargePages() {
    Finding finding{.wanted = "buffers larger than a page, 64 KiB at best",
                    .fix = "none for this driver: bnxt takes 32 KiB, mlx5 128 KiB, gve and fbnic none; Linux 7.0 or newer"};
    const PoolDemand demand{
        .queues = 1, .ring = question_.ring, .page_size = kLargePage, .connections = 1, .receive_buffer = kLeastReceiveBuffer};
    absl::StatusOr<Pool> pool = MakePool(LandingPoolSize(demand).bytes(), true);
    if (!pool.ok()) {
      rows_.push_back(
          Skip("page-size", question_.interface, absl::StrCat("not tried: ", Words(pool.status())), FixOf(pool.status())));
      return;
    }
    const absl::Status bound = BindTo(*pool, kLargePage);
    if (!bound.ok()) {
      rows_.push_back(Skip("page-size", question_.interface, "nothing could be bound: see row binding"));
      return;
    }
    const uint32_t page = binding_->page_size();
    finding.found = absl::StrCat(page >> 10, " KiB");
    const absl::Status undone = binding_->Undo(Clock::now() + question_.timeout);
    binding_.reset();
    if (!undone.ok()) absl::StrAppend(&finding.found, "; not wholly put back: ", Words(undone));
    const bool good = page > static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)) && undone.ok();
    rows_.push_back(MakeRow(good ? Verdict::kPass : Verdict::kWarn, "page-size", question_.interface, std::move(finding)));
  }

  absl::StatusOr<Pool> MakePool(uint64_t bytes, bool huge_pages) {
    Pool pool;
    DEVMEM_ASSIGN_OR_RETURN(pool.memory,
                            question_.device->Allocate(bytes, {.name = "canary", .dma_buf = true, .huge_pages = huge_pages}));
    DEVMEM_ASSIGN_OR_RETURN(pool.dmabuf, pool.memory->ExportDmaBuf());
    return pool;
  }

  absl::Status BindTo(const Pool& pool, uint32_t page_size) {
    DEVMEM_ASSIGN_OR_RETURN(binding_, RxBinding::Create({.interface = question_.interface,
                                                         .queues = {question_.queue},
                                                         .dmabuf_fd = pool.dmabuf.get(),
                                                         .page_size = page_size,
                                                         .journal_folder = question_.journal_folder}));
    return absl::OkStatus();
  }

  absl::Status Bind() {
    const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    const PoolDemand demand{
        .queues = 1, .ring = question_.ring, .page_size = page, .connections = 1, .receive_buffer = kReceiveBuffer};
    // Every buffer that payload came into is kept to the end.
    const uint64_t kept = (range_ / kLeastPayload + kProbes) * page;
    DEVMEM_ASSIGN_OR_RETURN(pool_, MakePool(LandingPoolSize(demand).bytes() + kept, false));
    std::vector<std::byte> chunk(kChunk);
    for (uint64_t at = 0; at < pool_.memory->bytes(); at += kChunk) {
      const auto part = std::span(chunk).first(std::min<uint64_t>(kChunk, pool_.memory->bytes() - at));
      poison_.Fill(part, at);
      DEVMEM_ASSIGN_OR_RETURN(const Event done,
                              question_.device->Poke({.memory = pool_.memory.get(), .offset = at, .bytes = part.size()}, part));
      DEVMEM_RETURN_IF_ERROR(done.Wait(Clock::now() + question_.timeout));
    }
    return BindTo(pool_, 0);
  }

  void Say(const std::string& found, const std::string& fix) {
    rows_.push_back(Fail("canary", question_.interface, {.found = found, .wanted = kCanaryWanted, .fix = fix}));
  }

  // A row canary in any case.
  void Stream() {
    const absl::StatusOr<bool> right = Exchange();
    if (!right.ok()) return Say(Words(right.status()), FixOf(right.status()));
    if (!*right) return;  // it was said
    Finding finding{.found = absl::StrCat(SizeText(stream_->device_bytes()), " in ", stream_->fragments().size(),
                                          " fragments: every byte is right"),
                    .wanted = kCanaryWanted,
                    .fix = "none is needed: such bytes are copied; many of them cost CPU"};
    if (stream_->linear_bytes() == 0) {
      rows_.push_back(Pass("canary", question_.interface, std::move(finding)));
    } else {
      absl::StrAppend(&finding.found, "; the NIC left ", stream_->linear_bytes(), " bytes of payload with the headers");
      rows_.push_back(Warn("canary", question_.interface, std::move(finding)));
    }
  }

  // Whether all was right; false: what is wrong is in a row.
  absl::StatusOr<bool> Exchange() {
    DEVMEM_ASSIGN_OR_RETURN(const PayloadRequest request, question_.store->PrepareGet(question_.object));
    if (!request.file_path.empty()) {
      return MakeError(absl::StatusCode::kFailedPrecondition, "files of this host come over no wire",
                       {.cause = "no wire", .action = "--bucket http://... or s3://... of another machine"});
    }
    DEVMEM_ASSIGN_OR_RETURN(const SocketAddress address,
                            ResolveFirst(request.host, request.port, Clock::now() + question_.timeout));
    DEVMEM_ASSIGN_OR_RETURN(steering_, FlowSteering::Create({binding_.get()}, {}));
    DEVMEM_RETURN_IF_ERROR(steering_->Begin());
    DEVMEM_ASSIGN_OR_RETURN(stream_, CanaryStream::Connect({.steering = steering_.get(),
                                                            .device = question_.device.get(),
                                                            .pool = pool_.memory.get(),
                                                            .dmabuf = binding_->dmabuf_id(),
                                                            .receive_buffer = kReceiveBuffer},
                                                           address, Clock::now() + question_.timeout));
    const uint64_t size = std::min(kProbe, range_);
    for (int i = 0; i < kProbes; ++i) {
      DEVMEM_ASSIGN_OR_RETURN(const bool right, Ask(request, (range_ - size) / kProbes * static_cast<uint64_t>(i), size));
      if (!right) return false;
    }
    return Ask(request, 0, range_);
  }

  absl::StatusOr<bool> Ask(const PayloadRequest& request, uint64_t offset, uint64_t length) {
    std::string text = absl::StrCat("GET ", request.target, " HTTP/1.1\r\nHost: ", request.host_header,
                                    "\r\nUser-Agent: devmem-loader\r\nAccept-Encoding: identity\r\nRange: bytes=", offset, "-",
                                    offset + length - 1, "\r\n");
    for (const auto& [name, value] : request.headers) absl::StrAppend(&text, name, ": ", value, "\r\n");
    text += "\r\n";
    const absl::StatusOr<CanaryStream::Answer> answer = stream_->Ask(text, Clock::now() + question_.timeout);
    if (!CameByTheQueue(length)) return false;  // first, for it is why the answer may have stalled
    if (!answer.ok()) return answer.status();
    if (!answer->head) return Examine("HTTP/1.", answer->begin);
    if (answer->head->status != 206 || answer->head->content_length != length) {
      return MakeError(absl::StatusCode::kFailedPrecondition,
                       absl::StrCat("the store answered ", answer->head->status, " with ",
                                    answer->head->content_length.value_or(0), " bytes to a request for ", length),
                       {.object = question_.object,
                        .cause = "no such range",
                        .action = "a store that serves ranges, and an object that stays"});
    }
    return Examine(std::string_view(reference_).substr(offset, length), answer->begin + answer->head->bytes);
  }

  // `length` of the answer that has just come: to a probe it is one frame.
  bool CameByTheQueue(uint64_t length) {
    if (stream_->foreign_bytes() != 0) {
      Say(absl::StrCat("WRONG QUEUE: ", stream_->foreign_bytes(), " bytes came in dma-buf ", stream_->foreign_dmabuf(),
                       ", which is another binding's, not in ours (", binding_->dmabuf_id(), ") on queue ", question_.queue),
          WrongQueueFix());
      return false;
    }
    if (stream_->host_bytes() == 0) return true;
    const uint32_t ours = binding_->queues().front().napi_id;
    std::set<uint32_t> others = stream_->host_napis();
    others.erase(ours);
    if (others.empty() && length > kProbe) {
      // A socket tells the queue of the last frame that the kernel has seen, and more than one was under way.
      Say(absl::StrCat("WRONG QUEUE OR NO HEADER SPLIT: ", stream_->host_bytes(),
                       " bytes came into host memory among others that came as they should"),
          WrongQueueFix());
      return false;
    }
    if (others.empty()) {
      Say(absl::StrCat("NO HEADER SPLIT: ", stream_->host_bytes(), " bytes came into host memory by queue ", question_.queue,
                       " itself: the NIC does not part them from their headers"),
          "newer driver or firmware; ethtool -g shows 'TCP data split'");
      return false;
    }
    std::vector<std::string> names;
    names.reserve(others.size());
    for (const uint32_t napi : others) names.push_back(QueueOf(napi));
    Say(absl::StrCat("WRONG QUEUE: ", stream_->host_bytes(), " bytes of the steered connection came into host memory by ",
                     absl::StrJoin(names, ", "), ", not by queue ", question_.queue),
        WrongQueueFix());
    return false;
  }

  std::string WrongQueueFix() const {
    return absl::StrCat("ethtool -n ", question_.interface, " and ethtool -x ", question_.interface,
                        " tell what else leads there; else the NIC's firmware does not obey its rules: ", kNoDevmem);
  }

  [[nodiscard]] std::string QueueOf(uint32_t napi) const {
    if (const auto netdev = Netdev::Open(); netdev.ok()) {
      if (const auto queues = (*netdev)->RxQueues(binding_->queues().front().ifindex); queues.ok()) {
        for (const RxQueueState& queue : *queues) {
          if (queue.napi_id == napi) return absl::StrCat("queue ", queue.queue);
        }
      }
    }
    return napi == 0 ? "a queue that is not told" : absl::StrCat("NAPI ", napi);
  }

  // Whether `sent` lies where it should.
  absl::StatusOr<bool> Examine(std::string_view sent, uint64_t from) {
    if (std::string_view(stream_->bytes()).substr(from, sent.size()) == sent) return true;
    // Again, and all of the pool: what was read above may have been read before the NIC's write got there.
    std::vector<std::byte> image(pool_.memory->bytes());
    for (uint64_t at = 0; at < image.size(); at += kChunk) {
      const auto part = std::span(image).subspan(at, std::min<uint64_t>(kChunk, image.size() - at));
      DEVMEM_ASSIGN_OR_RETURN(const Event done,
                              question_.device->Peek(part, {.memory = pool_.memory.get(), .offset = at, .bytes = part.size()}));
      DEVMEM_RETURN_IF_ERROR(done.Wait(Clock::now() + question_.timeout));
    }
    const std::optional<Fault> fault =
        Judge(image, poison_, stream_->fragments(), std::as_bytes(std::span(sent.data(), sent.size())), from);
    if (!fault) return true;
    const std::string where =
        absl::StrCat(fault->bytes, fault->bytes == 1 ? " byte" : " bytes", " from offset ", fault->stream, " of the stream on");
    switch (fault->kind) {
      case Fault::Kind::kLost:
        Say(absl::StrCat("LOST DMA WRITE: ", where, " never reached the pool: offset ", fault->pool,
                         " of it holds what it held before"),
            absl::StrCat("boot with iommu=pt, turn ACS redirection off (rows iommu, acs), or another driver: ", kNoDevmem));
        break;
      case Fault::Kind::kMisplaced:
        Say(absl::StrCat("MISPLACED DMA WRITE: ", where, " should lie at offset ", fault->pool, " of the pool, and lie at ",
                         fault->found),
            absl::StrCat("newer driver or firmware: ", kNoDevmem));
        break;
      case Fault::Kind::kGarbled:
        Say(absl::StrCat("WRONG BYTES: ", where, ": offset ", fault->pool,
                         " of the pool holds neither them nor what it held before"),
            absl::StrCat("try again, for the object may have changed meanwhile; else newer driver or firmware: ", kNoDevmem));
        break;
    }
    return false;
  }

  // Row put-back.
  void PutBack() {
    const std::string wanted = "the NIC as it was";
    stream_.reset();
    steering_.reset();
    const absl::Status undone = binding_->Undo(Clock::now() + question_.timeout);
    binding_.reset();
    if (undone.ok()) {
      rows_.push_back(Pass("put-back", question_.interface, {.found = wanted, .wanted = wanted}));
    } else {
      rows_.push_back(Fail("put-back", question_.interface,
                           {.found = Words(undone),
                            .wanted = wanted,
                            .fix = absl::StrCat("devmem-loaderd --recover --journal-folder ", question_.journal_folder)}));
    }
  }

  const CanaryQuestion& question_;
  const uint64_t range_;
  const Poison poison_;
  std::string reference_;
  Pool pool_;
  std::unique_ptr<RxBinding> binding_;
  std::unique_ptr<FlowSteering> steering_;
  std::unique_ptr<CanaryStream> stream_;
  Rows rows_;
};

}  // namespace

Rows RunCanary(const CanaryQuestion& question) { return Canary(question).Run(); }

Rows NoCanaryRows(const std::string& interface, const std::string& why, const std::string& fix) {
  return {Skip("page-size", interface, why), Skip("binding", interface, why),
          Fail("canary", interface, {.found = why, .wanted = kCanaryWanted, .fix = fix}), Skip("put-back", interface, why)};
}

}  // namespace devmem::doctor
