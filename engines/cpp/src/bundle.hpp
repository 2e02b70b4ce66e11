// A bundle: a folder with a manifest.json, which lists the digest of each file and its own digest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "numerics.hpp"

namespace fer_edge {

struct Artifact {
  std::string path;  // relative to the bundle, forward slashes
  std::string format;
  std::string precision;
  std::string target;  // empty for a portable file
  std::string sha256;
  std::uint64_t size = 0;
  std::string variant;  // of several graphs of one precision and target; mostly empty
  std::string weights;  // of an INT8 graph: "full", "saturation-safe", or empty
  bool chosen = false;  // a plan that a device kept, of several that it timed
};

// The decision of the build about one graph; `passed` is empty if it could not be decided.
struct Gate {
  std::string precision;
  std::string target;
  std::string variant;
  std::optional<bool> passed;
};

struct Golden {
  std::vector<Image> images;
  std::vector<Logits> logits;  // of the FP32 reference
};

// Checks the bytes of a golden.npz for a network of `classes`; errors begin with `where`.
// Error(integrity): not u8[G,1,48,48] and finite f32[G,classes], with G from 1 to 4,096.
[[nodiscard]] Golden golden_from_npz(const std::string& content, std::size_t classes,
                                     const std::string& where);

class Bundle {
 public:
  // Reads and checks the manifest. Error(usage): not a bundle, or one with a newer schema;
  // Error(integrity): a byte of the manifest was changed.
  [[nodiscard]] static Bundle open(const std::filesystem::path& path);

  // Checks the bytes of a manifest of the bundle at `path`; errors as in open().
  [[nodiscard]] static Bundle from_manifest(const std::string& content,
                                            const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::vector<std::string>& labels() const { return labels_; }
  [[nodiscard]] const Preprocessing& preprocessing() const { return preprocessing_; }
  [[nodiscard]] const std::vector<Artifact>& artifacts() const { return artifacts_; }

  [[nodiscard]] std::optional<Artifact> find(const std::string& format,
                                             const std::string& precision,
                                             const std::string& target) const;
  [[nodiscard]] std::optional<Artifact> find(const std::string& path) const;

  // All variants of a graph; the one without a name comes first.
  [[nodiscard]] std::vector<Artifact> graphs(const std::string& precision,
                                             const std::string& target) const;

  // Whether the gate of an engine failed for this placement. Such an engine is used only if the
  // user names its precision.
  [[nodiscard]] bool failed_gate(const Artifact& engine, const std::string& placement) const;

  // The command that adds an engine to this bundle, or to a copy of the one in the Python package.
  // If the bundle has nothing to build from, it is a sentence instead.
  [[nodiscard]] std::string build_command(const std::string& precision,
                                          const std::string& target) const;

  // Returns the bytes of an artifact after comparing them with its digest. The checked bytes are
  // returned, so a file that changes afterwards has no effect. Error(integrity): they differ.
  [[nodiscard]] std::string read(const Artifact& artifact) const;

  [[nodiscard]] Golden golden() const;

 private:
  std::filesystem::path path_;
  std::string name_;
  std::vector<std::string> labels_;
  Preprocessing preprocessing_;
  std::vector<Artifact> artifacts_;
  std::vector<Gate> gates_;
};

}  // namespace fer_edge
