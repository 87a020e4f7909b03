// From Packer 1.7 on builders are plugins, which `packer init` of this folder gets. Earlier ones have them built in and do not
// know this block: they build node.pkr.hcl alone.

packer {
  required_plugins {
    qemu = {
      source  = "github.com/hashicorp/qemu"
      version = ">= 1.1.0"
    }
  }
}
