// SPDX-License-Identifier: GPL-3.0-or-later
//
// The reference's numbers, where a machine has them: arrays out of .npz files and JSON. A test that
// needs them skips where they are missing.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace reference {

// TRAINYARD_REFERENCE of the environment, else the folder that CMake was given.
inline std::filesystem::path folder() {
  const char* named = std::getenv("TRAINYARD_REFERENCE");
#ifdef TRAINYARD_REFERENCE
  return named != nullptr ? named : TRAINYARD_REFERENCE;
#else
  return named != nullptr ? named : "";
#endif
}

inline std::string vectors(const std::string& name) {
  return (folder() / "vectors" / name).string();
}

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + ": cannot be read");
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

inline nlohmann::json read_json(const std::string& path) {
  return nlohmann::json::parse(read_text(path));
}

struct Array {
  std::string type;  // "<f4", "|u1", ...
  std::vector<std::int64_t> shape;
  std::string bytes;

  [[nodiscard]] std::int64_t size() const {
    return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
  }
  template <typename T>
  [[nodiscard]] std::vector<T> as() const {
    if (bytes.size() != static_cast<std::size_t>(size()) * sizeof(T)) {
      throw std::runtime_error("an array of " + type + " read as another type");
    }
    std::vector<T> values(static_cast<std::size_t>(size()));
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};

inline std::string inflate_raw(const std::string& packed, std::size_t size) {
  std::string result(size, '\0');
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw std::runtime_error("zlib");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  const int status = inflate(&stream, Z_FINISH);
  inflateEnd(&stream);
  if (status != Z_STREAM_END) throw std::runtime_error("zlib: a broken array");
  return result;
}

inline Array parse_npy(const std::string& npy) {
  Array array;
  const std::size_t header_size =
      static_cast<unsigned char>(npy.at(8)) + 256U * static_cast<unsigned char>(npy.at(9));
  const std::string header = npy.substr(10, header_size);
  const std::size_t type = header.find("'descr': '") + 10;
  array.type = header.substr(type, header.find('\'', type) - type);
  std::istringstream shape(header.substr(header.find('(') + 1));
  for (std::int64_t length = 0; shape >> length; shape.ignore()) array.shape.push_back(length);
  array.bytes = npy.substr(10 + header_size);
  return array;
}

// By name, without ".npy". Reads the zip's central directory.
inline std::map<std::string, Array> read_npz(const std::string& path) {
  const std::string zip = read_text(path);
  const auto number = [&](std::size_t at, int bytes) {
    std::uint64_t value = 0;
    for (int i = bytes - 1; i >= 0; --i) {
      value = value << 8 | static_cast<unsigned char>(zip.at(at + static_cast<std::size_t>(i)));
    }
    return static_cast<std::size_t>(value);
  };
  const std::size_t end = zip.rfind("PK\5\6");
  if (end == std::string::npos) throw std::runtime_error(path + ": no zip");
  std::map<std::string, Array> arrays;
  std::size_t entry = number(end + 16, 4);
  for (std::size_t i = 0; i < number(end + 10, 2); ++i) {
    const std::size_t method = number(entry + 10, 2), packed = number(entry + 20, 4);
    const std::size_t size = number(entry + 24, 4), name_size = number(entry + 28, 2);
    const std::size_t local = number(entry + 42, 4);
    const std::string name = zip.substr(entry + 46, name_size);
    const std::size_t data = local + 30 + number(local + 26, 2) + number(local + 28, 2);
    const std::string bytes = zip.substr(data, packed);
    arrays[name.substr(0, name.rfind(".npy"))] =
        parse_npy(method == 0 ? bytes : inflate_raw(bytes, size));
    entry += 46 + name_size + number(entry + 30, 2) + number(entry + 32, 2);
  }
  return arrays;
}

// What was compared, how far it was off and how far it may be. With TRAINYARD_FIDELITY=FILE in the
// environment a line of that file, from which the table of docs/fidelity.md is made.
inline double noted(const std::string& quantity, double difference, double tolerance) {
  if (const char* path = std::getenv("TRAINYARD_FIDELITY")) {
    std::ofstream(path, std::ios::app)
        << quantity << '\t' << difference << '\t' << tolerance << '\n';
  }
  return difference;
}

}  // namespace reference

#define EXPECT_WITHIN(quantity, difference, tolerance) \
  EXPECT_LE(reference::noted(quantity, difference, tolerance), tolerance)

// In a test body; `file` below the folder of vectors.
#define SKIP_WITHOUT_REFERENCE(file)                                      \
  if (!std::filesystem::exists(reference::vectors(file))) {               \
    GTEST_SKIP() << "no reference numbers: " << reference::vectors(file); \
  }
