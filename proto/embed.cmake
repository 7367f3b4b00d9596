# SPDX-License-Identifier: Apache-2.0
# cmake -DIN=FILE -DOUT=FILE.cc -DNAME=Function -P embed.cmake: the bytes of a file as devmem::Function(), a std::string_view.
file(READ ${IN} hex HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUT} "#include <string_view>
namespace devmem {
namespace { constexpr unsigned char kBytes[] = {${bytes}}; }
std::string_view ${NAME}() { return {reinterpret_cast<const char*>(kBytes), sizeof(kBytes)}; }
}  // namespace devmem
")
