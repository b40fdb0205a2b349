"""Units of the existing tool as they are found on hosts."""

from __future__ import annotations

from typing import Final

UNIT: Final = """\
# swarmbus systemd user unit

[Unit]
Description=a listener
After=network.target
Wants=network-online.target

[Service]
Type=simple
# the PATH
Environment=PATH=/home/pi/.local/bin:/usr/local/bin:/usr/bin:/bin
Environment=SWARMBUS_OUTBOX_CODER_2=/home/pi/sync/coder-2-outbox.md

ExecStart=/home/pi/.local/bin/swarmbus start \\
  --agent-id coder-2 \\
  --broker localhost \\
  --inbox /home/pi/sync/coder-2-inbox.md \\
  --invoke "/usr/bin/env wake coder-2"

Restart=on-failure
RestartSec=5s
StandardOutput=append:/home/pi/logs/swarmbus-coder-2.log
StandardError=append:/home/pi/logs/swarmbus-coder-2.log

[Install]
WantedBy=default.target
"""
"""As its installer writes it."""

TORN: Final = """\
[Unit]
Description=a listener
After=network.target

[Service]
Type=simple
ExecStart=/home/pi/.local/bin/swarmbus start
  --agent-id coder-2
  --broker 100.101.102.103
  --inbox /home/pi/sync/coder-2-inbox.md

Restart=on-failure
"""
"""As its installer writes it without ``--invoke``: systemd ignores the lines after ``start``."""

BY_DOCUMENTATION: Final = """\
[Unit]
Description=a listener

[Service]
Type=simple
Environment=SWARMBUS_BROKER_USERNAME=laptop
Environment=SWARMBUS_BROKER_PASSWORD=hunter2
Environment=SWARMBUS_BROKER_TLS=1
ExecStart=/usr/local/bin/swarmbus start \\
    --agent-id laptop \\
    --broker mqtt.example.com --port 8883 \\
    --inbox %h/sync/laptop-inbox.md \\
    --persistent
Restart=on-failure

[Install]
WantedBy=default.target
"""
"""As its page on security has it."""

AUTH: Final = """\
# Generated
[Service]
Environment=SWARMBUS_BROKER_USERNAME=coder
Environment=SWARMBUS_BROKER_PASSWORD=hunter2
Environment=SWARMBUS_BROKER_CA_CERT=/etc/ssl/own.pem
"""
"""``auth.conf`` as its installer writes it."""
