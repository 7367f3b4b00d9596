// SPDX-License-Identifier: Apache-2.0
#include "net/s3_listing.h"

#include <cstdlib>
#include <pugixml.hpp>

#include "base/testing/error_text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Page(const std::string& inner) {
  return R"(<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>)" +
         inner + "</ListBucketResult>";
}
constexpr char kLast[] = "<IsTruncated>false</IsTruncated>";

TEST(S3Page, ReadsObjectsAndTheToken) {
  const auto page = ParseS3Page(
      Page("<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated><NextContinuationToken>a+/=</NextContinuationToken>"
           "<Contents><Key>a+b%2B%C3%A9%26</Key><LastModified>2026-11-22T16:00:00.000Z</LastModified><ETag>&quot;0af&quot;</"
           "ETag><Size>7</Size></Contents>"
           "<Contents><Key>x/y</Key><ETag>W/&quot;1&quot;</ETag><Size>9223372036854775807</Size></Contents>"
           "<CommonPrefixes><Prefix>p</Prefix></CommonPrefixes>"),
      "s3://b/");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(page->objects, ElementsAre(S3Object{"a b+\xc3\xa9&", 7, "\"0af\""}, S3Object{"x/y", 9223372036854775807u, ""}));
  EXPECT_EQ(page->next_token, "a+/=");
}

TEST(S3Page, WithoutEncodingKeysAreLiteral) {
  const auto page =
      ParseS3Page(Page(std::string(kLast) + "<Contents><Key>a+b%20&amp;&lt;</Key><Size>0</Size></Contents>"), "s3://b/");
  ASSERT_TRUE(page.ok()) << page.status();
  EXPECT_THAT(page->objects, ElementsAre(S3Object{"a+b%20&<", 0, ""}));
  EXPECT_TRUE(page->next_token.empty());
}

TEST(S3Page, Errors) {
  struct Row {
    std::string xml;
    const char* says;
  };
  for (const Row& row : {
           Row{"", "not a ListObjectsV2 page"},
           Row{"<html/>", "ListBucketResult"},
           Row{"<ListBucketResult>", "byte"},
           Row{Page(""), "IsTruncated"},
           Row{Page("<IsTruncated>true</IsTruncated>"), "NextContinuationToken"},
           Row{Page(std::string(kLast) + "<Contents><Size>1</Size></Contents>"), "without a key"},
           Row{Page(std::string(kLast) + "<Contents><Key>k</Key></Contents>"), "\"k\" has size \"\""},
           Row{Page(std::string(kLast) + "<Contents><Key>k</Key><Size>-1</Size></Contents>"), "size \"-1\""},
           Row{Page(std::string(kLast) + "<Contents><Key>k</Key><Size>1e9</Size></Contents>"), "size \"1e9\""},
           Row{Page(std::string(kLast) + "<Contents><Key>k</Key><Size>9223372036854775808</Size></Contents>"), "has size"},
           Row{Page(std::string(kLast) + "<Contents><Key>k</Key><Size>99999999999999999999999</Size></Contents>"), "has size"},
       }) {
    const auto page = ParseS3Page(row.xml, "s3://b/");
    EXPECT_EQ(page.status().code(), absl::StatusCode::kFailedPrecondition) << row.xml;
    EXPECT_THAT(Text(page.status()), HasSubstr(row.says)) << row.xml;
  }
  std::string deep;
  for (int i = 0; i < 300000; ++i) deep.append("<a>");
  EXPECT_FALSE(ParseS3Page(deep, "s3://b/").ok());
}

TEST(S3Error, CodesAndMessages) {
  struct Row {
    int http_status;
    const char *body, *cause;
    absl::StatusCode code;
    const char* says;
  };
  for (const Row& row : {
           Row{404,
               "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>The specified bucket does not "
               "exist</Message></Error>",
               "NoSuchBucket", absl::StatusCode::kNotFound, "The specified bucket does not exist"},
           Row{403, "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>", "AccessDenied",
               absl::StatusCode::kPermissionDenied, "403"},
           Row{503, "<Error><Code>SlowDown</Code></Error>", "SlowDown", absl::StatusCode::kUnavailable, "503 SlowDown"},
           Row{400, "<Error><Code>AccessDenied</Code></Error>", "AccessDenied", absl::StatusCode::kPermissionDenied, "400"},
           Row{301, "<Error><Code>PermanentRedirect</Code><Message>m\x1b[2J</Message></Error>", "PermanentRedirect",
               absl::StatusCode::kFailedPrecondition, "m\\x1b"},
           Row{404, "<html>nothing", "no such object", absl::StatusCode::kNotFound, "404 Not Found"},
           Row{404, "", "no such object", absl::StatusCode::kNotFound, "404 Not Found"},
       }) {
    const absl::Status status = S3Error(row.http_status, row.body, {.object = "s3://b/"});
    EXPECT_EQ(status.code(), row.code) << status;
    EXPECT_EQ(CauseText(status), row.cause);
    EXPECT_THAT(Text(status), HasSubstr(row.says));
    EXPECT_FALSE(GetErrorInfo(status).action.empty());
  }
}

// What the parser has now, and the most it had.
uint64_t parser_bytes, parser_most;
void* Allocate(size_t bytes) {
  auto* const block = static_cast<size_t*>(std::malloc(bytes + 16));
  block[0] = bytes;
  parser_bytes += bytes;
  parser_most = std::max(parser_most, parser_bytes);
  return block + 2;
}
void Deallocate(void* at) {
  auto* const block = static_cast<size_t*>(at) - 2;
  parser_bytes -= block[0];
  std::free(block);
}

// Whatever XML there is in a page, no more is taken than was said before.
TEST(S3Page, TakesNoMoreThanItSays) {
  const auto repeat = [](const std::string& piece, size_t bytes) {
    std::string text;
    while (text.size() < bytes) text += piece;
    return text;
  };
  pugi::set_memory_management_functions(Allocate, Deallocate);
  const auto measure = [](const std::string& xml) {
    parser_most = parser_bytes = 0;
    const auto page = ParseS3Page(xml, "s3://b/");
    uint64_t objects = 0;
    if (page.ok()) objects = page->objects.capacity() * sizeof(S3Object);
    EXPECT_LE(parser_most + objects, S3PageMemory(xml)) << xml.substr(0, 200) << ": " << page.status();
    return parser_most;
  };
  uint64_t most = 0;
  for (const char* piece : {"<a/>", "<a>x</a>", "x<a/>", "<a b=''/>", "<a b='' c='' d=''/>", "<?p?>", "<!-- -->",
                            "<![CDATA[]]>", "&amp;", " ", "<a>", "<Contents><Key>k</Key><Size>1</Size></Contents>"}) {
    most = std::max(most, measure(Page(repeat(piece, 1 << 20) + kLast)));
    measure(Page(piece));
  }
  EXPECT_GT(most, 16u << 20) << "such XML is there to be counted";
  // A usual page: what is said is not out of all proportion.
  std::string usual = kLast;
  for (int i = 0; i < 1000; ++i) {
    usual += "<Contents><Key>train/" + std::to_string(i) + ".npy</Key><LastModified>2026-11-22T16:00:00.000Z</LastModified>" +
             "<ETag>&quot;0123456789abcdef&quot;</ETag><Size>1048576</Size><StorageClass>STANDARD</StorageClass></Contents>";
  }
  EXPECT_LE(S3PageMemory(Page(usual)), 4u << 20);
  pugi::set_memory_management_functions(std::malloc, std::free);
}

TEST(S3Error, ALongBodyIsNoErrorDocument) {
  const std::string code = "<Error><Code>NoSuchKey</Code></Error>";
  EXPECT_EQ(CauseText(S3Error(500, code, {.object = "x"})), "NoSuchKey");
  EXPECT_THAT(CauseText(S3Error(500, code + std::string(1 << 20, ' '), {.object = "x"})), testing::Not(HasSubstr("NoSuchKey")));
}

}  // namespace
}  // namespace devmem
