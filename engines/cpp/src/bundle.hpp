// A bundle: a folder with a manifest.json that holds the digest of each of its files and of itself.
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
};

// What the build decided of one precision; `passed` is empty where it could not be decided.
struct Gate {
  std::string precision;
  std::string target;
  std::optional<bool> passed;
};

struct Golden {
  std::vector<Image> images;
  std::vector<Logits> logits;  // of the FP32 reference
};

class Bundle {
 public:
  // Reads and checks the manifest. Error(usage): no bundle, or one of a newer schema;
  // Error(integrity): any byte of the manifest differs from what was written.
  [[nodiscard]] static Bundle open(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] const std::vector<std::string>& labels() const { return labels_; }
  [[nodiscard]] const Preprocessing& preprocessing() const { return preprocessing_; }
  [[nodiscard]] const std::vector<Artifact>& artifacts() const { return artifacts_; }

  [[nodiscard]] std::optional<Artifact> find(const std::string& format,
                                             const std::string& precision,
                                             const std::string& target) const;
  [[nodiscard]] std::optional<Artifact> find(const std::string& path) const;

  // Whether a precision lost too much in its gate for this placement: then it is used only when it
  // is asked for by name.
  [[nodiscard]] bool failed_gate(const std::string& precision, const std::string& placement) const;

  // The command that adds an engine to this bundle, or to a copy of the one in the Python package;
  // plain words where the bundle has nothing to build from.
  [[nodiscard]] std::string build_command(const std::string& precision,
                                          const std::string& target) const;

  // Returns an artifact's bytes after comparing them with its digest: what is returned is what was
  // checked, so that a file changed in between cannot be used. Error(integrity) otherwise.
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
