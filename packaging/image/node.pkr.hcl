// A node's image with shimtap in it, on top of one that has containerd:
//   packer init . && packer build -var package=… -var base=… -var base_checksum=… .
//
// Written for QEMU; with another builder (azure-arm, amazon-ebs, googlecompute) only the source and plugins.pkr.hcl change. The
// base image must have containerd, and a user `packer` who may use sudo.

variable "package" {
  type        = string
  description = "The .deb or .rpm that ./dev package has made."
}

variable "base" {
  type        = string
  description = "URL or path of the image to begin with."
}

variable "base_checksum" {
  type        = string
  description = "Its checksum, e.g. sha512:… or file:URL of a list."
}

source "qemu" "node" {
  iso_url          = var.base
  iso_checksum     = var.base_checksum
  disk_image       = true
  format           = "qcow2"
  headless         = true
  ssh_username     = "packer"
  ssh_timeout      = "10m"
  shutdown_command = "sudo poweroff"
}

build {
  sources = ["source.qemu.node"]

  provisioner "file" {
    source      = var.package
    destination = "/var/tmp/${basename(var.package)}"
  }

  provisioner "file" {
    source      = "${path.root}/provision.sh"
    destination = "/var/tmp/provision.sh"
  }

  // Fails, and with it the build, where a handler of the image's containerd is not wrapped afterwards.
  provisioner "shell" {
    inline = [
      "sudo sh /var/tmp/provision.sh /var/tmp/${basename(var.package)}",
      "sudo rm /var/tmp/provision.sh /var/tmp/${basename(var.package)}",
    ]
  }
}
