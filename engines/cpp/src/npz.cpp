#include "npz.hpp"

#include <cstdint>
#include <cstring>
#include <limits>

#include <zlib.h>

#include "errors.hpp"

namespace fer_edge {
namespace {

// A golden self-test has about 75 KB. A damaged size field cannot allocate more than this limit.
constexpr std::uint64_t kLargestArray = 64 << 20;

// Little-endian fields of a byte string. No read goes past the end of the string.
class Bytes {
 public:
  Bytes(std::string_view content, const std::string& where) : content_(content), where_(where) {}

  [[nodiscard]] std::uint64_t number(std::size_t at, std::size_t width) const {
    const std::string_view field = slice(at, width);
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < width; ++i) {
      value |= std::uint64_t{static_cast<unsigned char>(field[i])} << (8 * i);
    }
    return value;
  }

  [[nodiscard]] std::string_view slice(std::uint64_t at, std::uint64_t size) const {
    if (at > content_.size() || size > content_.size() - at) throw damaged("it is incomplete");
    return content_.substr(static_cast<std::size_t>(at), static_cast<std::size_t>(size));
  }

  [[nodiscard]] Error damaged(const std::string& why) const {
    return Error(Exit::integrity, where_ + ": not a numpy .npz: " + why);
  }

 private:
  std::string_view content_;
  const std::string& where_;
};

std::string inflate_member(const Bytes& zip, std::string_view packed, std::uint64_t size) {
  std::string out(static_cast<std::size_t>(size), '\0');
  z_stream stream{};
  // Negative window bits: a zip member is a raw deflate stream.
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw zip.damaged("zlib cannot be started");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  const int end = inflate(&stream, Z_FINISH);
  const bool whole = end == Z_STREAM_END && stream.avail_out == 0;
  inflateEnd(&stream);
  if (!whole) throw zip.damaged("a member cannot be decompressed to its size");
  return out;
}

// Reads the one-line Python dict of a .npy header. Only headers as numpy writes them are accepted.
class NpyHeader {
 public:
  NpyHeader(std::string_view text, const Bytes& zip) : text_(text), zip_(zip) {}

  Array read() {
    Array array;
    expect("{'descr': '");
    const std::size_t end = text_.find('\'', at_);
    if (end == std::string_view::npos) throw zip_.damaged("an array has no type");
    array.dtype = std::string(text_.substr(at_, end - at_));
    at_ = end;
    expect("', 'fortran_order': False, 'shape': (");
    while (at_ < text_.size() && text_[at_] != ')') {
      array.shape.push_back(number());
      if (at_ < text_.size() && text_[at_] == ',') ++at_;
      if (at_ < text_.size() && text_[at_] == ' ') ++at_;
    }
    expect(")");
    return array;
  }

 private:
  void expect(std::string_view literal) {
    if (text_.substr(at_, literal.size()) != literal) {
      throw zip_.damaged("an array has a header that numpy does not write");
    }
    at_ += literal.size();
  }

  std::size_t number() {
    std::uint64_t value = 0;
    const std::size_t start = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + static_cast<std::uint64_t>(text_[at_++] - '0');
      if (value > kLargestArray) throw zip_.damaged("an array is too large");
    }
    if (at_ == start) throw zip_.damaged("the shape of an array is not numbers");
    return static_cast<std::size_t>(value);
  }

  std::string_view text_;
  const Bytes& zip_;
  std::size_t at_ = 0;
};

std::size_t item_size(const std::string& dtype, const Bytes& zip) {
  if (dtype == "|u1") return 1;
  if (dtype == "<f4") return 4;
  throw zip.damaged("an array has the unexpected type " + dtype);
}

Array array_from_npy(std::string_view npy, const Bytes& zip, const std::string& where) {
  const Bytes bytes(npy, where);
  if (bytes.slice(0, 6) != std::string_view("\x93NUMPY", 6)) {
    throw zip.damaged("a member is not an array");
  }
  const std::uint64_t version = bytes.number(6, 1);
  const std::size_t width = version == 1 ? 2 : 4;
  const std::uint64_t length = bytes.number(8, width);
  Array array = NpyHeader(bytes.slice(8 + width, length), zip).read();
  std::uint64_t size = item_size(array.dtype, zip);
  for (const std::size_t extent : array.shape) {
    size *= extent;
    if (size > kLargestArray) throw zip.damaged("an array is too large");
  }
  const std::uint64_t start = 8 + width + length;
  if (npy.size() - start != size) throw zip.damaged("an array does not have the size of its shape");
  array.bytes = std::string(bytes.slice(start, size));
  return array;
}

}  // namespace

std::map<std::string, Array> read_npz(std::string_view content, const std::string& where) {
  const Bytes zip(content, where);
  // numpy writes no archive comment, so the end record is in the last 22 bytes.
  if (content.size() < 22) throw zip.damaged("it is incomplete");
  const std::size_t end = content.size() - 22;
  if (zip.number(end, 4) != 0x06054b50) throw zip.damaged("it has no end record");
  const std::uint64_t count = zip.number(end + 10, 2);
  std::uint64_t at = zip.number(end + 16, 4);

  std::map<std::string, Array> arrays;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string_view entry = zip.slice(at, 46);
    const Bytes field(entry, where);
    if (field.number(0, 4) != 0x02014b50) throw zip.damaged("its directory is damaged");
    const std::uint64_t method = field.number(10, 2);
    const std::uint64_t packed_size = field.number(20, 4);
    const std::uint64_t size = field.number(24, 4);
    const std::uint64_t name_length = field.number(28, 2);
    const std::uint64_t local = field.number(42, 4);
    std::string name(zip.slice(at + 46, name_length));
    at += 46 + name_length + field.number(30, 2) + field.number(32, 2);
    if (size > kLargestArray) throw zip.damaged("a member is too large");

    // The sizes in the local header are zip64 markers; the real sizes are in the directory.
    const Bytes header(zip.slice(local, 30), where);
    if (header.number(0, 4) != 0x04034b50) throw zip.damaged("the header of a member is damaged");
    const std::uint64_t data = local + 30 + header.number(26, 2) + header.number(28, 2);
    const std::string_view packed = zip.slice(data, packed_size);
    std::string npy;
    if (method == 0) {
      npy = packed;
    } else if (method == 8) {
      npy = inflate_member(zip, packed, size);
    } else {
      throw zip.damaged("a member has an unknown compression");
    }
    if (name.size() < 4 || name.substr(name.size() - 4) != ".npy") {
      throw zip.damaged("a member is not a .npy file");
    }
    name.resize(name.size() - 4);
    if (!arrays.emplace(name, array_from_npy(npy, zip, where)).second) {
      throw zip.damaged("it has two arrays of the same name");
    }
  }
  return arrays;
}

}  // namespace fer_edge
