{{- /* Where a runtime keeps its files: what is read, what is written and where its socket is. The socket's folder is mounted, for a
runtime that starts anew makes a new socket. */}}
{{- define "larder.node.paths" -}}
{{- $rancher := "/var/lib/rancher/%s/agent" }}
{{- if eq . "containerd" }}
settings: /etc/containerd
hosts: /etc/containerd/certs.d
content: /var/lib/containerd/io.containerd.content.v1.content
socket: /run/containerd
{{- else if has . (list "k3s" "rke2") }}
settings: {{ printf $rancher . }}/etc/containerd
hosts: {{ printf $rancher . }}/etc/containerd/certs.d
content: {{ printf $rancher . }}/containerd/io.containerd.content.v1.content
socket: /run/k3s/containerd
{{- else if eq . "k0s" }}
settings: /etc/k0s
hosts: /etc/k0s/containerd.d/certs.d
content: /var/lib/k0s/containerd/io.containerd.content.v1.content
socket: /run/k0s
{{- else if eq . "microk8s" }}
settings: /var/snap/microk8s/current/args
hosts: /var/snap/microk8s/current/args/certs.d
content: /var/snap/microk8s/common/var/lib/containerd/io.containerd.content.v1.content
socket: /var/snap/microk8s/common/run
{{- else }}
settings: /etc/crio
hosts: /etc/containers/registries.conf.d
socket: /run/crio
{{- end }}
{{- end }}
