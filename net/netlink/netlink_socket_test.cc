// SPDX-License-Identifier: Apache-2.0
#include "net/netlink/netlink_socket.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>

#include <algorithm>
#include <cerrno>
#include <initializer_list>
#include <string>
#include <vector>

#include "base/error.h"
#include "net/netlink/genl.h"

namespace devmem {
namespace {

using ::testing::HasSubstr;

constexpr uint32_t kSequence = 7;
constexpr uint16_t kData = 0x20;  // a family's messages begin at NLMSG_MIN_TYPE

using Bytes = std::string;

template <typename T>
void Append(Bytes& to, const T& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

Bytes Join(std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& part : parts) all += part;
  return all;
}

Bytes Padded(Bytes bytes) {
  bytes.resize(NLMSG_ALIGN(bytes.size()), '\0');
  return bytes;
}

Bytes Message(uint16_t type, uint16_t flags, const Bytes& payload, uint32_t sequence = kSequence) {
  Bytes message;
  const auto length = static_cast<uint32_t>(NLMSG_HDRLEN + payload.size());
  Append(message, nlmsghdr{.nlmsg_len = length, .nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = sequence});
  return Padded(Join({message, payload}));
}

Bytes Attribute(uint16_t type, const Bytes& value) {
  Bytes attribute;
  Append(attribute, nlattr{.nla_len = static_cast<uint16_t>(sizeof(nlattr) + value.size()), .nla_type = type});
  return Padded(Join({attribute, value}));
}

template <typename T>
Bytes Of(T value) {
  Bytes bytes;
  Append(bytes, value);
  return bytes;
}

Bytes Zeros(size_t size) { return Bytes(size, '\0'); }

// nlmsgerr: the error, then the header of the request, which says how long the request was.
Bytes Error(int error, uint32_t request_length) {
  Bytes bytes = Of(-error);
  Append(bytes, nlmsghdr{.nlmsg_len = request_length});
  return bytes;
}

// In memory of exactly its size, so that a sanitizer sees what is read beyond.
bool Consume(const Bytes& bytes, NetlinkProgress& progress) {
  std::vector<std::byte> exact(bytes.size());
  std::transform(bytes.begin(), bytes.end(), exact.begin(), [](char byte) { return static_cast<std::byte>(byte); });
  return ConsumeDatagram(exact, kSequence, progress);
}

const Bytes kAck = Message(NLMSG_ERROR, NLM_F_CAPPED, Error(0, 40));

TEST(ConsumeDatagram, CollectsAnswersUntilTheAcknowledgement) {
  NetlinkProgress progress;
  ASSERT_TRUE(Consume(Join({Message(kData, 0, Of(uint32_t{1})), Message(kData, 0, Of(uint32_t{2}))}), progress));
  EXPECT_FALSE(progress.done);
  ASSERT_TRUE(Consume(kAck, progress));
  EXPECT_TRUE(progress.done);
  EXPECT_EQ(progress.refusal.error, 0);
  ASSERT_EQ(progress.answers.size(), 2U);
  EXPECT_EQ(*progress.answers[1].Header<uint32_t>(), 2U);
  EXPECT_EQ(progress.answers[1].Header<uint64_t>(), nullptr) << "shorter than that";
}

TEST(ConsumeDatagram, PassesOverAnswersToAnEarlierRequest) {
  NetlinkProgress progress;
  const Bytes stale = Join({Message(kData, 0, Of(uint32_t{1}), kSequence - 1),
                            Message(NLMSG_ERROR, NLM_F_CAPPED, Error(EPERM, 40), kSequence - 1), Message(kData, 0, {})});
  ASSERT_TRUE(Consume(stale, progress));
  EXPECT_FALSE(progress.done);
  EXPECT_EQ(progress.answers.size(), 1U);
}

TEST(ConsumeDatagram, KeepsTheKernelsWords) {
  const Bytes words = Join({Attribute(NLMSGERR_ATTR_MSG, Bytes("queue is bound\0", 15)),
                            Attribute(NLMSGERR_ATTR_OFFS, Of(uint32_t{24})), Attribute(5, Of(uint32_t{3}))});
  const struct {
    const char* what;
    Bytes message;
  } kRows[] = {
      {"capped", Message(NLMSG_ERROR, NLM_F_ACK_TLVS | NLM_F_CAPPED, Join({Error(EEXIST, 40), words}))},
      {"behind the whole request", Message(NLMSG_ERROR, NLM_F_ACK_TLVS, Join({Error(EEXIST, 40), Zeros(24), words}))},
      {"at a dump's end", Message(NLMSG_DONE, NLM_F_ACK_TLVS, Join({Of(-EEXIST), words}))},
  };
  for (const auto& row : kRows) {
    NetlinkProgress progress;
    ASSERT_TRUE(Consume(row.message, progress)) << row.what;
    EXPECT_TRUE(progress.done) << row.what;
    EXPECT_EQ(progress.refusal.error, EEXIST) << row.what;
    EXPECT_EQ(progress.refusal.words, "queue is bound") << row.what;
    EXPECT_EQ(progress.refusal.offset, 24U) << row.what;
    EXPECT_EQ(progress.refusal.missing, 3U) << row.what;
  }
}

TEST(ConsumeDatagram, AWordWithoutItsFlagIsNotRead) {
  NetlinkProgress progress;
  const Bytes words = Attribute(NLMSGERR_ATTR_MSG, "no");
  ASSERT_TRUE(Consume(Message(NLMSG_ERROR, NLM_F_CAPPED, Join({Error(EINVAL, 40), words})), progress));
  EXPECT_EQ(progress.refusal.error, EINVAL);
  EXPECT_EQ(progress.refusal.words, "");
}

TEST(ConsumeDatagram, NoticesAnInterruptedDump) {
  NetlinkProgress progress;
  ASSERT_TRUE(
      Consume(Join({Message(kData, NLM_F_MULTI | NLM_F_DUMP_INTR, {}), Message(NLMSG_DONE, NLM_F_MULTI, Of(0))}), progress));
  EXPECT_TRUE(progress.done);
  EXPECT_TRUE(progress.interrupted);
}

TEST(ConsumeDatagram, RefusesWhatIsNoMessage) {
  const struct {
    const char* what;
    Bytes bytes;
  } kRows[] = {
      {"shorter than a header", Zeros(sizeof(nlmsghdr) - 1)},
      {"a length of zero", Zeros(sizeof(nlmsghdr))},
      {"a length beyond the datagram", Of(nlmsghdr{.nlmsg_len = 4096, .nlmsg_type = kData, .nlmsg_seq = kSequence})},
      {"an error without its number", Message(NLMSG_ERROR, 0, Zeros(2))},
      {"rubbish behind a good message", Join({Message(kData, 0, {}), Zeros(3)})},
  };
  for (const auto& row : kRows) {
    NetlinkProgress progress;
    EXPECT_FALSE(Consume(row.bytes, progress)) << row.what;
  }
}

// Whatever is cut off or changed, nothing is read beyond the end (the sanitizers see to that) and nothing loops.
TEST(ConsumeDatagram, SurvivesEveryTruncationAndEveryChangedByte) {
  const Bytes nest = Attribute(3, Join({Attribute(1, Of(uint32_t{5})), Attribute(2, "name")}));
  const Bytes good =
      Join({Message(kData, 0, Join({Zeros(4), Attribute(1, Of(uint64_t{9})), nest})),
            Message(NLMSG_ERROR, NLM_F_ACK_TLVS, Join({Error(EEXIST, 40), Zeros(24), Attribute(NLMSGERR_ATTR_MSG, "words")}))});
  const auto try_it = [](const Bytes& bytes) {
    NetlinkProgress progress;
    if (!Consume(bytes, progress)) return;
    for (const NetlinkAnswer& answer : progress.answers) {
      const NetlinkAttributes told = GenlAttributes(answer);
      (void)told.Uint(1);
      (void)told.Nest(3).U32(1);
      (void)told.Nest(3).String(2);
      told.ForEach([](uint16_t, std::span<const std::byte> value) { (void)NetlinkAttributes(value).Has(1); });
    }
  };
  for (size_t size = 0; size <= good.size(); ++size) try_it(good.substr(0, size));
  for (size_t at = 0; at < good.size(); ++at) {
    for (const int value : {0x00, 0x01, 0x7f, 0xff}) {
      Bytes changed = good;
      changed[at] = static_cast<char>(value);
      try_it(changed);
    }
  }
}

TEST(NetlinkAttributes, ReadsNumbersOfTheRightSizeOnly) {
  const Bytes bytes = Join({Attribute(1, Of(uint8_t{1})), Attribute(2, Of(uint32_t{2})), Attribute(3, Of(uint64_t{1} << 40)),
                            Attribute(4 | NLA_F_NESTED, Attribute(1, Of(uint32_t{4}))), Attribute(5, "dms0")});
  const NetlinkAttributes told(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(told.U8(1), 1);
  EXPECT_EQ(told.U32(1), std::nullopt);
  EXPECT_EQ(told.U32(2), 2U);
  EXPECT_EQ(told.Uint(2), 2U);
  EXPECT_EQ(told.Uint(3), uint64_t{1} << 40);
  EXPECT_EQ(told.U32(3), std::nullopt);
  EXPECT_EQ(told.Nest(4).U32(1), 4U);
  EXPECT_EQ(told.String(5), "dms0");
  EXPECT_EQ(told.String(6), std::nullopt);
  EXPECT_FALSE(told.Has(6));
}

TEST(NetlinkRequest, TooMuchIsNotSent) {
  auto socket = NetlinkSocket::Open(NETLINK_GENERIC);
  ASSERT_TRUE(socket.ok()) << socket.status();
  NetlinkRequest request(GENL_ID_CTRL, 0, sizeof(genlmsghdr));
  request.PutBytes(1, std::vector<std::byte>(70000));
  EXPECT_TRUE(request.overflow());
  EXPECT_EQ(socket->Exchange(request, {"all", "cannot ask"}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(GenlFamily, IsFoundByName) {
  auto control = GenlFamily::Open("nlctrl", "any kernel");
  ASSERT_TRUE(control.ok()) << control.status();
  EXPECT_EQ(control->id(), GENL_ID_CTRL);
  NetlinkRequest request = control->Request(CTRL_CMD_GETFAMILY, NLM_F_DUMP);
  auto all = control->Exchange(request, {"families", "cannot list them"});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_GT(all->size(), 1U);
}

TEST(GenlFamily, ThatIsNotThereSaysWhatItTakes) {
  const absl::Status status = GenlFamily::Open("nonesuch", "Linux 99").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Text(status), "netlink family 'nonesuch': this kernel has none (no such netlink family); it takes Linux 99");
}

TEST(NetlinkSocket, ARefusalPointsAtTheAttribute) {
  auto control = GenlFamily::Open("nlctrl", "any kernel");
  ASSERT_TRUE(control.ok()) << control.status();
  NetlinkRequest request = control->Request(CTRL_CMD_GETFAMILY);
  request.PutString(CTRL_ATTR_FAMILY_NAME, std::string(200, 'x'));  // longer than names are
  const absl::Status status = control->Exchange(request, {"family", "cannot look it up"}).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(Text(status), HasSubstr("(attribute 2 of the request, byte 20)"));
}

TEST(KernelRefusal, SaysWhatToDo) {
  const NetlinkSubject subject{"dms0", "cannot bind"};
  const struct {
    int error;
    absl::StatusCode code;
    const char* words;
    const char* text;
  } kRows[] = {
      {EPERM, absl::StatusCode::kPermissionDenied, "",
       "dms0: cannot bind: Operation not permitted; run with CAP_NET_ADMIN in the network namespace's user namespace"},
      {EEXIST, absl::StatusCode::kAlreadyExists, "designated queue already memory provider bound",
       "dms0: cannot bind: designated queue already memory provider bound; whoever has it must let it go first"},
      {EINVAL, absl::StatusCode::kInvalidArgument, "tcp-data-split is disabled",
       "dms0: cannot bind: tcp-data-split is disabled"},
      {EINVAL, absl::StatusCode::kUnimplemented, "Unknown attribute type",
       "dms0: cannot bind: Unknown attribute type; this driver or this kernel cannot do that"},
  };
  for (const auto& row : kRows) {
    const absl::Status status = KernelRefusal(subject, row.error, row.words);
    EXPECT_EQ(status.code(), row.code) << row.text;
    EXPECT_EQ(Text(status), row.text);
  }
}

}  // namespace
}  // namespace devmem
