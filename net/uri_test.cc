// SPDX-License-Identifier: Apache-2.0
#include "net/uri.h"

#include <random>

#include "base/error.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace devmem {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

TEST(StoreUri, Http) {
  struct Row {
    const char* uri;
    HttpOrigin origin;
    const char* text;
  };
  const Row rows[] = {
      {"http://h", {"h", 80, "h", "/"}, "http://h/"},
      {"HTTP://h:80/", {"h", 80, "h", "/"}, "http://h/"},
      {"http://127.0.0.1:8080/train", {"127.0.0.1", 8080, "127.0.0.1:8080", "/train/"}, "http://127.0.0.1:8080/train/"},
      {"http://[::1]:8080/a/b/", {"::1", 8080, "[::1]:8080", "/a/b/"}, "http://[::1]:8080/a/b/"},
      {"http://[::1]", {"::1", 80, "[::1]", "/"}, "http://[::1]/"},
      {"http://[fe80::1%25eth0]:81/", {"fe80::1%eth0", 81, "[fe80::1]:81", "/"}, "http://[fe80::1]:81/"},
      {"http://h/a%20b/%C3%A9", {"h", 80, "h", "/a%20b/%C3%A9/"}, "http://h/a%20b/%C3%A9/"},
      {"http://h/%61%2f", {"h", 80, "h", "/a%2F/"}, "http://h/a%2F/"},
      {"http://h/x@y/", {"h", 80, "h", "/x%40y/"}, "http://h/x%40y/"},
      {"http://h/pre%20fix", {"h", 80, "h", "/pre%20fix/"}, "http://h/pre%20fix/"},  // the folder "pre fix"
      {"http://h/a/../b", {"h", 80, "h", "/b/"}, "http://h/b/"},
  };
  for (const Row& row : rows) {
    const auto uri = ParseStoreUri(row.uri);
    ASSERT_TRUE(uri.ok()) << row.uri << ": " << uri.status();
    EXPECT_EQ(uri->scheme, StoreScheme::kHttp);
    EXPECT_EQ(uri->http, row.origin) << row.uri << " host " << uri->http.host << " path " << uri->http.path;
    EXPECT_EQ(uri->text, row.text);
  }
}

TEST(StoreUri, S3IsTakenLiterally) {
  struct Row {
    const char *uri, *bucket, *prefix;
  };
  for (const Row& row : {Row{"s3://b", "b", ""}, Row{"s3://b/", "b", ""}, Row{"S3://b_1.x/p", "b_1.x", "p/"},
                         Row{"s3://123/a b/%20?#/", "123", "a b/%20?#/"}, Row{"s3://b/x@y", "b", "x@y/"},
                         Row{"s3://b/pre%20fix", "b", "pre%20fix/"}, Row{"s3://b/pre fix", "b", "pre fix/"}}) {
    const auto uri = ParseStoreUri(row.uri);
    ASSERT_TRUE(uri.ok()) << uri.status();
    EXPECT_EQ(uri->scheme, StoreScheme::kS3);
    EXPECT_EQ(uri->bucket, row.bucket);
    EXPECT_EQ(uri->prefix, row.prefix);
  }
}

TEST(StoreUri, File) {
  struct Row {
    const char *uri, *directory, *text;
  };
  for (const Row& row :
       {Row{"file:///data", "/data", "file:///data"}, Row{"file:///data/a%20b//", "/data/a b", "file:///data/a%20b"},
        Row{"file:///", "/", "file:///"}, Row{"file://localhost/d", "/d", "file:///d"}}) {
    const auto uri = ParseStoreUri(row.uri);
    ASSERT_TRUE(uri.ok()) << row.uri << ": " << uri.status();
    EXPECT_EQ(uri->scheme, StoreScheme::kFile);
    EXPECT_EQ(uri->directory, row.directory);
    EXPECT_EQ(uri->text, row.text);
  }
}

TEST(StoreUri, ErrorsSayWhatToWrite) {
  struct Row {
    const char* uri;
    absl::StatusCode code;
    const char* says;
  };
  for (const Row& row : {
           Row{"", absl::StatusCode::kInvalidArgument, "http://host"},
           Row{"/data", absl::StatusCode::kInvalidArgument, "write file:///data for"},
           Row{"./data", absl::StatusCode::kInvalidArgument, "file:///absolute/path/to/data"},
           Row{"htpp://h/x/", absl::StatusCode::kInvalidArgument, "did you mean \"http://h/x/\"?"},
           Row{"S4://b", absl::StatusCode::kInvalidArgument, "did you mean \"s3://b\"?"},
           Row{"gopher://h/", absl::StatusCode::kInvalidArgument, "supported are http://"},
           Row{"https://h/", absl::StatusCode::kUnimplemented, "later release"},
           Row{"gs://b/", absl::StatusCode::kUnimplemented, "later release"},
           Row{"http://", absl::StatusCode::kInvalidArgument, ""},
           Row{"http:///x", absl::StatusCode::kInvalidArgument, ""},
           Row{"http://h:99999/", absl::StatusCode::kInvalidArgument, ""},
           Row{"http://h:x/", absl::StatusCode::kInvalidArgument, ""},
           Row{"http://[::1/", absl::StatusCode::kInvalidArgument, ""},
           Row{"http://h/?a=b", absl::StatusCode::kInvalidArgument, "query"},
           Row{"http://h/#a", absl::StatusCode::kInvalidArgument, "fragment"},
           Row{"http://h/\r\nx", absl::StatusCode::kInvalidArgument, "control"},
           Row{"http://h/%0d%0ax", absl::StatusCode::kInvalidArgument, "control"},
           Row{"s3://", absl::StatusCode::kInvalidArgument, "bucket is missing"},
           Row{"http://h/a b", absl::StatusCode::kInvalidArgument, "write %20 for it"},
           Row{"file:///a b", absl::StatusCode::kInvalidArgument, "write %20 for it"},
           Row{"s3:///x", absl::StatusCode::kInvalidArgument, "bucket is missing"},
           Row{"s3://b:80/x", absl::StatusCode::kInvalidArgument, "--endpoint-url"},
           Row{"s3://../x", absl::StatusCode::kInvalidArgument, ""},
           Row{"s3://b/../x", absl::StatusCode::kInvalidArgument, ".."},
           Row{"file://data/x", absl::StatusCode::kInvalidArgument, "file:///data/x"},
           Row{"file://", absl::StatusCode::kInvalidArgument, "absolute"},
           Row{"file:///x%00y", absl::StatusCode::kInvalidArgument, "NUL"},
       }) {
    const auto uri = ParseStoreUri(row.uri);
    ASSERT_FALSE(uri.ok()) << row.uri;
    EXPECT_EQ(uri.status().code(), row.code) << row.uri << ": " << uri.status();
    EXPECT_THAT(Text(uri.status()), HasSubstr(row.says)) << row.uri;
    EXPECT_FALSE(GetErrorInfo(uri.status()).action.empty()) << row.uri;
  }
}

TEST(StoreUri, CredentialsAreRefusedAndNotRepeated) {
  for (const char* text : {"http://user:hunter2@h/", "https://user:hunter2@h/", "s3://AKIA:hunter2@b/", "hxxp://hunter2@h",
                           "file://hunter2@h/x"}) {
    const auto uri = ParseStoreUri(text);
    ASSERT_EQ(uri.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(Text(uri.status()), AllOf(HasSubstr("user information"), Not(HasSubstr("hunter2"))));
  }
  const auto endpoint = ParseHttpOrigin("http://u:hunter2@h/", "endpoint");
  EXPECT_THAT(Text(endpoint.status()), AllOf(HasSubstr("user information"), Not(HasSubstr("hunter2"))));
}

TEST(HttpOrigin, Endpoint) {
  const auto origin = ParseHttpOrigin("http://[::1]:5000", "--endpoint-url");
  ASSERT_TRUE(origin.ok()) << origin.status();
  EXPECT_EQ(OriginText(*origin), "http://[::1]:5000");
  for (const char* url : {"", "127.0.0.1:5000", "ftp://h", "http://", "https://h"})
    EXPECT_FALSE(ParseHttpOrigin(url, "--endpoint-url").ok()) << url;
}

TEST(Percent, Encoding) {
  EXPECT_EQ(EncodePath("a b/c+d?e#f%/\xc3\xa9~-_.A9"), "a%20b/c%2Bd%3Fe%23f%25/%C3%A9~-_.A9");
  EXPECT_EQ(EncodePath("//a/"), "//a/");
  EXPECT_EQ(EncodeSegment("a/b"), "a%2Fb");
  EXPECT_EQ(DecodePercent("%zz%2%41%"), "%zz%2A%");
  EXPECT_EQ(DecodePercent("%-1%+1"), "%-1%+1");
}

TEST(Percent, AnyBytesComeBack) {
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    std::string text(random() % 40, '\0');
    for (char& c : text) c = static_cast<char>(random());
    EXPECT_EQ(DecodePercent(EncodePath(text)), text);
    EXPECT_EQ(DecodePercent(EncodeSegment(text)), text);
  }
}

TEST(WithoutQuery, KeepsNoSecret) {
  struct Row {
    const char* url;
    const char* kept;
  };
  for (const Row& row : {
           Row{"http://h/a?X-Amz-Signature=s", "http://h/a"},
           Row{"http://h/a#s", "http://h/a"},
           Row{"http://user:s@h:80/a?b", "http://...@h:80/a"},
           Row{"http://user:s/@h/a", "http://...@h/a"},
           Row{"//user:s@h/a", "//...@h/a"},
           Row{"/a/b?s", "/a/b"},
           Row{"a\r\nb?s", "a\\x0d\\x0ab"},
           Row{"?s", ""},
           Row{"", ""},
       }) {
    EXPECT_EQ(WithoutQuery(row.url), row.kept) << row.url;
  }
}

}  // namespace
}  // namespace devmem
